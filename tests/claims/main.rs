//! The real allocator over stores that break off, stand still and lag: whatever happens at whichever call, one key
//! holds one sandbox at most, its owner gets it as the answer, and no sandbox is lost to the other owners.
//!
//! Each case is a function over an engine; the macros below make a test of it in memory, and of some on the
//! embedded DynamoDB. All of a test runs on one thread, so that its seed decides the order of everything.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should panic"
)]

mod bulk_deletes;
mod candidates;
mod crowds;
mod ended_leases;
mod endless;
mod engines;
mod exhaustive;
mod interleavings;
mod interruptions;
mod late_attempts;
mod late_writers;
mod listing;
mod repeats;
mod settings;
mod shelves;
mod soundness;
mod twins;
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
        nothing_fails_and_everything_comes_at_once,
        now_and_then_something_breaks,
        something_breaks_all_the_time,
    }
    crowds {
        everybody_gets_one_until_there_are_none,
    }
    repeats {
        the_request_that_made_a_lease_is_told_so_again,
        a_request_key_that_cannot_be_one_is_refused,
        a_repeat_is_noted_unless_it_was_the_only_attempt,
        a_new_request_replaces_a_closed_claim_by_three_writes,
        a_claim_without_a_request_replaces_a_closed_one_too,
        a_process_that_stood_still_writes_nothing_after_its_deadline,
        a_release_of_another_epoch_is_refused,
    }
    ended_leases {
        until_its_grace_is_over_a_lease_stays,
        a_lease_that_is_over_ends_like_a_released_one,
        a_lease_that_is_over_ends_even_if_nothing_is_free,
        a_lease_that_is_extended_at_its_end_stays_the_one_of_its_key,
        a_queue_that_fails_holds_nobody_up,
    }
    listing {
        every_filter_and_every_combination_shows_what_is_there,
        what_stays_is_shown_once_while_others_change,
        an_index_that_grows_during_a_walk_hides_nothing,
    }
    bulk_deletes {
        what_a_sync_finds_again_in_that_moment_stays,
        a_tombstone_holds_against_a_late_listing,
        a_deletion_that_was_given_up_is_only_ended_by_a_replay,
        a_removal_whose_answer_is_lost_is_done_once,
        two_removals_at_once_remove_each_once,
    }
}

on_engine! { memory Memory:
    late_attempts {
        a_late_attempt_of_a_cold_process_takes_nothing,
        a_late_attempt_with_outdated_candidates_takes_nothing,
        a_late_attempt_at_a_repeat_takes_nothing,
        a_late_attempt_after_the_lease_is_over_takes_nothing,
        a_late_attempt_on_a_left_behind_item_takes_nothing,
    }
    interruptions {
        a_claim_of_a_cold_process_breaks_off_at_any_call,
        a_claim_with_outdated_candidates_breaks_off_at_any_call,
        a_claim_of_the_last_one_breaks_off_at_any_call,
        a_repeat_breaks_off_at_any_call,
        a_repeat_on_an_empty_pool_breaks_off_at_any_call,
        a_claim_after_the_lease_is_over_breaks_off_at_any_call,
        a_claim_on_a_left_behind_item_breaks_off_at_any_call,
    }
    twins {
        twins_of_cold_processes_stop_anywhere,
        twins_with_outdated_candidates_stop_anywhere,
        twins_after_the_last_one_stop_anywhere,
        twins_that_repeat_stop_anywhere,
        twins_after_the_lease_is_over_stop_anywhere,
        twins_on_a_left_behind_item_stop_anywhere,
        twins_in_one_process_stop_anywhere,
        a_twin_is_not_told_that_the_pool_is_empty,
    }
    late_writers {
        a_late_writer_of_a_cold_process_does_no_harm,
        a_late_writer_with_outdated_candidates_does_no_harm,
        a_late_writer_after_the_lease_is_over_does_no_harm,
        a_late_writer_on_a_left_behind_item_does_no_harm,
    }
}

// What between them makes every call of a claim; memory has shown the rest.
on_engine! { dynoxide Dynoxide:
    late_attempts {
        a_late_attempt_with_outdated_candidates_takes_nothing,
        a_late_attempt_at_a_repeat_takes_nothing,
    }
    interruptions {
        a_claim_with_outdated_candidates_breaks_off_at_any_call,
        a_repeat_on_an_empty_pool_breaks_off_at_any_call,
        a_claim_after_the_lease_is_over_breaks_off_at_any_call,
    }
    twins {
        twins_with_outdated_candidates_stop_anywhere,
        twins_after_the_lease_is_over_stop_anywhere,
        a_twin_is_not_told_that_the_pool_is_empty,
    }
    late_writers {
        a_late_writer_with_outdated_candidates_does_no_harm,
    }
}
