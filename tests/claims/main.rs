//! The real allocator over stores that fail, pause and lag: whatever happens at whichever call, one key holds at most
//! one sandbox, its owner gets it as the answer, and no sandbox is lost to the other owners.
//!
//! Each case is a function over an engine; the macros below make a test of it in memory, and of some on the embedded
//! DynamoDB. A test runs on one thread, so that its seed decides the order of everything.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should panic"
)]

mod bulk_deletes;
mod candidate_buffer;
mod candidates;
mod concurrent_attempts;
mod contention;
mod created;
mod ended_leases;
mod endless;
mod engines;
mod exhaustive;
mod exhaustive_cold;
mod interleavings;
mod interruptions;
mod late_attempts;
mod late_writers;
mod listing;
mod repeats;
mod search;
mod settings;
mod soundness;
mod unsteady;
mod world;

/// Tests of `cases` on one engine.
macro_rules! on_engine {
    ($name:ident $engine:ident: $($suite:ident { $($case:ident),+ $(,)? })+) => {
        mod $name {
            $(mod $suite {
                $(#[tokio::test]
                async fn $case() {
                    crate::$suite::$case(crate::engines::Engine::$engine).await;
                })+
            })+
        }
    };
}

/// Tests of `cases` on either engine.
macro_rules! on_both {
    ($($cases:tt)+) => {
        mod both {
            on_engine! { memory Memory: $($cases)+ }
            on_engine! { dynoxide Dynoxide: $($cases)+ }
        }
    };
}

on_both! {
    interleavings {
        concurrent_calls_without_faults,
        concurrent_calls_with_rare_faults,
        concurrent_calls_with_frequent_faults,
    }
    contention {
        every_caller_gets_one_until_the_pool_is_exhausted,
    }
    repeats {
        repeat_of_the_creating_request_is_answered_created,
        invalid_request_key_is_rejected,
        a_repeat_is_noted_unless_it_was_the_only_attempt,
        a_new_request_replaces_a_closed_claim_by_three_writes,
        a_claim_without_a_request_replaces_a_closed_one_too,
        stalled_process_writes_nothing_after_its_deadline,
        a_release_of_another_epoch_is_refused,
    }
    ended_leases {
        lease_is_kept_until_its_grace_ends,
        ended_lease_is_deleted_like_a_released_one,
        ended_lease_is_closed_even_if_the_pool_is_exhausted,
        lease_extended_at_its_end_is_kept,
        queue_failure_does_not_block_the_claim,
    }
    created {
        twin_of_a_stalled_claim_creates_its_sandbox,
        drained_pool_gives_up_an_absent_sandbox,
        key_of_another_request_is_refused_until_its_lease_ends,
        released_creation_is_not_revived,
        free_sandbox_is_taken_before_one_is_created,
        repeat_announces_a_creation_again,
        creation_cannot_be_extended,
    }
    listing {
        every_filter_combination_lists_the_matching_sandboxes,
        unchanged_sandbox_is_listed_once_during_changes,
        index_growth_during_a_listing_hides_nothing,
    }
    bulk_deletes {
        sandbox_restored_by_a_concurrent_sync_is_kept,
        tombstone_survives_a_late_listing,
        parked_deletion_is_only_ended_by_a_replay,
        removal_with_a_lost_reply_is_done_once,
        concurrent_removals_remove_each_sandbox_once,
    }
}

on_engine! { memory Memory:
    late_attempts {
        late_attempt_of_a_cold_process_takes_nothing,
        late_attempt_with_outdated_candidates_takes_nothing,
        late_attempt_at_a_repeat_takes_nothing,
        late_attempt_after_lease_end_takes_nothing,
        late_attempt_on_a_leftover_item_takes_nothing,
    }
    interruptions {
        claim_of_a_cold_process_is_interrupted_at_any_call,
        claim_with_outdated_candidates_is_interrupted_at_any_call,
        claim_of_the_last_sandbox_is_interrupted_at_any_call,
        repeat_is_interrupted_at_any_call,
        repeat_on_an_empty_pool_is_interrupted_at_any_call,
        claim_after_lease_end_is_interrupted_at_any_call,
        claim_on_a_leftover_item_is_interrupted_at_any_call,
        claim_that_creates_is_interrupted_at_any_call,
        claim_on_an_absent_sandbox_is_interrupted_at_any_call,
    }
    concurrent_attempts {
        concurrent_attempts_that_create_agree,
        concurrent_attempts_on_an_absent_sandbox_agree,
        concurrent_attempts_of_cold_processes_agree,
        concurrent_attempts_with_outdated_candidates_agree,
        concurrent_attempts_at_the_last_sandbox_agree,
        concurrent_attempts_at_a_repeat_agree,
        concurrent_attempts_after_lease_end_agree,
        concurrent_attempts_on_a_leftover_item_agree,
        concurrent_attempts_in_one_process_agree,
        concurrent_attempt_gets_no_false_exhausted,
    }
    late_writers {
        late_writer_of_a_cold_process_does_no_harm,
        late_writer_with_outdated_candidates_does_no_harm,
        late_writer_after_lease_end_does_no_harm,
        late_writer_on_a_leftover_item_does_no_harm,
    }
}

// These cover every call of a claim; memory covers the rest.
on_engine! { dynoxide Dynoxide:
    late_attempts {
        late_attempt_with_outdated_candidates_takes_nothing,
        late_attempt_at_a_repeat_takes_nothing,
    }
    interruptions {
        claim_with_outdated_candidates_is_interrupted_at_any_call,
        repeat_on_an_empty_pool_is_interrupted_at_any_call,
        claim_after_lease_end_is_interrupted_at_any_call,
    }
    concurrent_attempts {
        concurrent_attempts_with_outdated_candidates_agree,
        concurrent_attempts_after_lease_end_agree,
        concurrent_attempt_gets_no_false_exhausted,
    }
    late_writers {
        late_writer_with_outdated_candidates_does_no_harm,
    }
}
