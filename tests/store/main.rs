//! One suite for every store: in memory, on the embedded engine, and on Amazon's DynamoDB Local if it is installed.
//!
//! Each case is a function over a store; the macros below make a test of every case on every engine.

mod agreement;
mod claims;
mod engines;
mod fixtures;
mod group_index;
mod identity;
mod interruptions;
mod lab_traffic;
mod layout;
mod listing;
mod lost_replies;
mod operator_actions;
mod outages;
mod pools;
mod races;
mod stored_items;
mod tables;
mod templates;
mod transitions;
mod unreadable;

/// Tests of `cases` on one engine. The search for an engine reports a missing one.
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

/// Cases about the items in DynamoDB and about the connection to it.
macro_rules! on_dynamodb {
    ($($cases:tt)+) => {
        on_engine!(dynoxide_table: $($cases)+);
        on_engine!(dynamodb_local_table: $($cases)+);
    };
}

/// Cases that change the indexes of a table.
macro_rules! on_indexes {
    ($($cases:tt)+) => {
        on_engine!(dynoxide_indexes: $($cases)+);
        on_engine!(dynamodb_local_indexes: $($cases)+);
    };
}

on_every_engine! {
    transitions {
        every_transition_from_every_state_matches_the_domain,
        new_sandbox_is_available_and_a_known_one_is_unchanged,
        created_sandbox_is_written_once,
        replay_of_a_creation_needs_a_lease_that_is_not_over,
        abandoned_id_is_never_created,
        grant_needs_the_version_that_was_read,
        a_release_needs_the_owner,
        an_expiry_needs_the_lease_and_its_end,
        a_deletion_needs_its_epoch,
        replay_needs_its_epoch_and_resets_attempts,
        an_attempt_is_counted_once,
        pre_clean_result_is_kept_with_the_deletion,
        error_is_truncated_as_in_the_domain,
        missing_sandbox_becomes_stale_and_is_restored,
        forgotten_sandbox_leaves_a_tombstone,
        description_changes_nothing_else,
        tombstone_is_not_restored,
        absent_sandbox_is_distinguished_from_a_lost_race,
        a_long_history_keeps_its_latest_entries,
    }
    claims {
        a_claim_item_is_written_once,
        claim_item_moves_only_from_its_current_candidate,
        a_claim_item_is_closed_once_and_only_by_its_own_record,
        a_closed_claim_item_is_replaced_and_keeps_its_requests,
        lease_records_the_requests_it_answered,
        a_key_belongs_to_its_owner,
        a_repeat_gets_the_same_lease,
        a_claim_after_a_release_gets_another_sandbox,
    }
    races {
        one_key_gets_one_lease,
        every_owner_gets_a_sandbox_while_available,
        no_sandbox_goes_to_two_owners,
        a_lease_ends_once,
        concurrent_attempt_notes_count_once,
        concurrent_finish_and_park_have_one_winner,
        concurrent_claim_and_sync_have_one_winner,
    }
    interruptions {
        crash_at_any_call_leaves_a_resumable_claim,
        concurrent_attempt_at_any_call_gets_the_same_answer,
        a_late_writer_after_a_release_holds_at_most_one,
        late_move_does_not_undo_a_concurrent_claim,
        crashed_release_does_not_block_the_key,
        key_of_an_exhausted_claim_gets_a_later_sandbox,
    }
    operator_actions {
        extension_needs_the_lease_and_a_later_end,
        an_extended_lease_is_due_at_its_new_end_only,
        concurrent_extend_and_expire_have_one_winner,
        a_lease_that_is_extended_often_keeps_a_short_history,
        quarantined_sandbox_is_not_granted_and_can_be_restored,
        quarantine_ends_and_remembers_the_lease,
    }
    listing {
        pages_have_no_gaps_or_repeats,
        a_prefix_narrows_a_page,
        listing_can_start_at_any_name_and_continue,
        last_entry_of_a_range_matches_its_listing,
        due_times_narrow_a_page,
        every_state_has_its_own_index_partition,
        pools_do_not_mix,
        counts_agree_with_pages,
        sandboxes_of_a_lab_are_listed_in_pages,
        claims_of_an_owner_are_listed_in_pages,
        tombstones_are_listed_in_pages,
    }
    identity {
        account_is_inserted_once,
        a_used_account_stays_taken_when_its_record_is_gone,
        an_identity_names_every_record_of_its_account,
        identity_changes_are_conditional_on_the_read,
        identities_are_listed_in_pages,
        sandbox_can_be_reidentified,
        taken_account_cannot_be_adopted,
        still_listed_sandbox_is_redeleted_and_then_parked,
        concurrent_syncs_make_one_record_per_account,
    }
    agreement {
        store_agrees_with_the_memory_store,
    }
}

on_every_shared_engine! {
    layout {
        processes_agree_on_the_number_of_shards,
        growing_shard_count_hides_nothing,
        shrinking_shard_count_hides_nothing,
        growing_pool_gets_more_shards,
        concurrent_shard_changes_converge,
        latest_supply_note_counts,
        supply_settles_after_the_index_lag,
        deletion_switch_changes_are_conditional,
        processes_agree_on_settings_and_keep_those_of_others,
        mark_is_advanced_conditionally,
    }
    pools {
        pool_changes_are_conditional_on_the_version,
        two_providers_share_no_identity,
    }
    templates {
        versions_are_written_once_and_conditionally,
        concurrent_writers_lose_no_version,
        removed_template_is_not_listed_and_its_numbers_go_on,
        templates_and_versions_are_listed_in_pages,
    }
}

on_dynamodb! {
    tables {
        table_is_created_once,
        time_to_live_is_switched_on_unless_the_setting_leaves_it_alone,
        table_whose_time_to_live_cannot_be_switched_on_is_usable,
        concurrent_table_creation_succeeds_for_all,
        incompatible_table_is_refused_with_every_difference,
    }
    stored_items {
        indexes_of_labs_contain_current_leases,
        finished_items_get_a_ttl,
    }
    unreadable {
        page_skips_and_reports_a_corrupt_item,
        corrupt_record_is_not_overwritten,
        corrupt_candidate_is_lost_unless_the_claim_may_hold_it,
        unknown_attributes_survive_writes,
        corrupt_item_is_named_in_the_error,
    }
    lost_replies {
        open_claim_with_a_lost_reply_succeeds,
        move_claim_with_a_lost_reply_succeeds,
        grant_with_a_lost_reply_returns_our_lease,
        attempt_with_a_lost_reply_is_counted_once,
    }
    outages {
        missing_table_is_reported_as_unavailable,
    }
}

on_indexes! {
    group_index {
        new_table_has_both_indexes_and_counts_as_back_filled,
        group_index_is_refused_until_it_can_be_read,
        index_is_added_under_load,
        back_fill_runs_under_load_and_may_be_repeated,
        readers_are_switched_under_load,
        lab_index_is_dropped_under_load_and_comes_back,
        back_fill_continues_after_a_stop,
        stale_groups_are_not_listed_and_are_removed,
    }
}
