//! One suite for every store: in memory, on the embedded engine, and on Amazon's DynamoDB Local where it is.
//!
//! Each case is a function over a store; the macros below make a test of every case on every engine.

mod agreement;
mod claims;
mod engines;
mod fixtures;
mod identity;
mod interruptions;
mod layout;
mod listing;
mod lost_replies;
mod orders;
mod outages;
mod races;
mod stored_items;
mod tables;
mod transitions;
mod unreadable;

/// Tests of `cases` on one engine. An engine that is not on this machine has said so when it was looked for.
macro_rules! on_engine {
    ($engine:ident: $($suite:ident { $($case:ident),+ $(,)? })+) => {
        mod $engine {
            $(mod $suite {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(engine) = crate::engines::$engine().await {
                        crate::$suite::$case(engine).await;
                    }
                })+
            })+
        }
    };
}

/// Cases that hold for every store.
macro_rules! on_every_engine {
    ($($cases:tt)+) => {
        on_engine!(memory: $($cases)+);
        on_engine!(dynoxide: $($cases)+);
        on_engine!(dynamodb_local: $($cases)+);
    };
}

/// Cases of several processes on one table.
macro_rules! on_every_shared_engine {
    ($($cases:tt)+) => {
        on_engine!(shared_memory: $($cases)+);
        on_engine!(shared_dynoxide: $($cases)+);
        on_engine!(shared_dynamodb_local: $($cases)+);
    };
}

/// Cases about what lies in DynamoDB and about the way there.
macro_rules! on_dynamodb {
    ($($cases:tt)+) => {
        on_engine!(dynoxide_table: $($cases)+);
        on_engine!(dynamodb_local_table: $($cases)+);
    };
}

on_every_engine! {
    transitions {
        every_transition_from_every_state_answers_like_the_domain,
        a_new_sandbox_is_free_and_a_known_one_is_left_alone,
        a_grant_needs_the_version_that_was_seen,
        a_release_needs_the_owner,
        an_expiry_needs_the_lease_and_its_end,
        a_deletion_needs_its_epoch,
        a_replay_needs_its_epoch_and_counts_anew,
        an_attempt_is_counted_once,
        what_clearing_came_to_is_kept_with_the_deletion,
        an_error_is_cut_where_the_domain_cuts_it,
        a_sandbox_goes_missing_and_comes_back,
        what_is_given_up_leaves_a_tombstone,
        a_description_touches_nothing_else,
        a_tombstone_is_not_brought_back,
        an_absent_sandbox_is_told_apart,
        a_long_history_keeps_its_latest_entries,
    }
    claims {
        a_claim_item_is_written_once,
        a_claim_item_moves_only_from_what_it_names,
        a_claim_item_is_closed_once_and_only_by_its_own_record,
        a_closed_claim_item_is_replaced_and_keeps_its_requests,
        a_lease_knows_the_requests_that_it_was_the_answer_to,
        a_key_belongs_to_its_owner,
        a_repeat_gets_the_same_lease,
        a_claim_after_a_release_gets_another_sandbox,
    }
    races {
        one_key_gets_one_lease,
        every_owner_gets_a_sandbox_while_there_are_some,
        no_sandbox_goes_to_two_owners,
        a_lease_ends_once,
        an_attempt_is_counted_by_one,
        a_deletion_ends_one_way,
        a_claim_and_a_sync_do_not_both_win,
    }
    interruptions {
        a_crash_at_any_call_leaves_a_claim_that_goes_on,
        a_twin_at_any_call_gets_the_same_answer,
        a_late_writer_after_a_release_holds_at_most_one,
        a_late_move_does_not_undo_a_twins_claim,
        a_crashed_release_leaves_nothing_that_blocks,
        a_key_that_found_nothing_gets_what_comes_later,
    }
    orders {
        an_extension_needs_the_lease_and_its_time,
        an_extended_lease_is_due_at_its_new_end_only,
        more_time_and_the_end_of_a_lease_do_not_both_win,
        a_lease_that_is_extended_often_keeps_a_short_history,
        a_quarantined_sandbox_is_not_granted_and_comes_back_by_its_name,
        a_lease_ends_with_its_quarantine_and_is_remembered,
    }
    listing {
        pages_follow_on_without_gap_or_repeat,
        a_prefix_narrows_a_page,
        a_listing_begins_at_any_name_and_goes_on_over_the_whole,
        the_last_of_a_part_is_the_last_of_its_listing,
        due_times_narrow_a_page,
        every_state_is_in_its_own_part_of_the_index,
        pools_do_not_mix,
        counts_agree_with_pages,
        what_a_lab_holds_comes_page_by_page,
        an_owners_claims_come_page_by_page,
        tombstones_are_found_page_by_page,
    }
    identity {
        an_account_enters_once,
        a_used_account_stays_taken_when_its_record_is_gone,
        an_identity_names_every_record_of_its_account,
        an_identity_changes_only_as_it_was_seen,
        identities_come_page_by_page,
        a_sandbox_becomes_another_account,
        no_sandbox_becomes_an_account_that_is_taken,
        what_is_still_listed_is_deleted_again_and_then_parked,
        syncs_at_once_make_one_record_of_an_account,
    }
    agreement {
        memory_gives_the_same_answers,
    }
}

on_every_shared_engine! {
    layout {
        processes_agree_on_the_number_of_shards,
        a_number_that_grows_hides_nothing,
        a_number_that_falls_hides_nothing,
        a_pool_that_grows_gets_more_shards,
        twins_that_change_the_number_end_at_one,
        a_supply_is_noted_and_the_latest_counts,
        a_supply_settles_when_the_index_has_had_its_time,
        processes_agree_on_the_key_of_cursors,
        the_switch_of_the_deletions_is_turned_by_one_at_a_time,
        processes_agree_on_settings_and_keep_those_of_others,
        a_mark_is_advanced_by_one_at_a_time,
    }
}

on_dynamodb! {
    tables {
        a_table_is_made_once,
        a_race_to_make_a_table_has_no_loser,
        a_table_of_somebody_else_is_refused_with_every_difference,
    }
    stored_items {
        the_lab_index_holds_what_a_lab_holds_now,
        what_is_over_gets_a_time_to_live,
    }
    unreadable {
        a_page_shows_what_is_beside_an_item_that_cannot_be_read,
        a_record_that_cannot_be_read_is_not_written_over,
        a_candidate_that_cannot_be_read_is_lost_unless_the_claim_may_hold_it,
        what_a_build_does_not_know_survives_its_writes,
        an_item_that_cannot_be_read_is_named,
    }
    lost_replies {
        a_claim_whose_reply_is_lost_is_opened,
        a_move_whose_reply_is_lost_has_moved,
        a_grant_whose_reply_is_lost_shows_our_own_lease,
        an_attempt_whose_reply_is_lost_is_counted_once,
    }
    outages {
        a_missing_table_is_an_outage,
    }
}
