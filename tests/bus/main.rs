//! One suite for both buses: in memory, and on a real NATS server.
//!
//! Each case is a function over an engine; the macros below make a test of every case on every engine. Features of one
//! engine are tested beside the suite: headers and subjects on NATS, the test's clock and deliberately lost calls in
//! memory.

mod deletions;
mod delivery;
mod engines;
mod event_log;
mod feed;
mod fixtures;
mod links;
mod manual_worker;
mod nodes;
mod on_memory;
mod on_nats;
mod outages;
mod provisions;
mod repair;
mod requests;
mod skew;
mod throttle;
mod ticks;
mod upkeep;
mod users;

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

/// Cases that hold for every bus.
macro_rules! on_every_engine {
    ($($cases:tt)+) => {
        on_engine!(memory Memory: $($cases)+);
        on_engine!(nats Nats: $($cases)+);
    };
}

on_every_engine! {
    requests {
        a_reply_carries_the_body_and_the_outcome,
        fault_carries_its_code_and_request_id,
        worker_receives_the_verb_and_context,
        missing_responders_are_reported_immediately,
        busy_worker_refuses_immediately,
        a_request_whose_deadline_has_passed_is_dropped,
        work_past_its_deadline_is_aborted_with_a_timeout,
        work_continues_after_its_caller_left,
        invalid_request_id_is_replaced,
        body_size_is_limited,
        requests_are_spread_and_each_answered_once,
        stopping_worker_answers_its_requests,
        worker_survives_a_panicking_request,
    }
    nodes {
        node_without_a_runner_is_reported_immediately,
        request_reaches_its_node_only,
        nodes_answer_for_themselves,
        busy_node_refuses_immediately,
        stopping_runner_answers_its_requests,
        fault_of_a_node_is_passed_on,
        node_work_past_its_deadline_is_aborted_with_a_timeout,
        each_runner_of_a_node_receives_a_request,
        request_refused_in_an_outage_is_not_delivered_later,
    }
    deletions {
        sandbox_has_at_most_one_message,
        finished_work_can_be_announced_again,
        work_of_sandboxes_and_pools_is_independent,
        work_without_a_valid_sandbox_is_rejected,
        a_lost_message_can_be_announced_again,
        parked_copy_is_stored_once,
        undecodable_message_is_parked,
        retry_preserves_unknown_fields,
    }
    delivery {
        retry_is_redelivered_after_its_delay_without_blocking,
        global_in_flight_limit_is_enforced,
        in_flight_limit_of_a_process_is_enforced,
        slow_work_is_kept_alive,
        work_of_a_panicked_worker_is_redelivered,
        work_of_a_dead_process_is_redelivered,
        stopping_consumer_finishes_its_work,
        stopping_consumer_returns_unfinished_work,
        every_message_gets_a_verdict,
        busy_pool_does_not_block_others,
        work_of_an_unannounced_pool_is_consumed,
    }
    provisions {
        sandbox_has_at_most_one_provision,
        invalid_provision_is_rejected,
        leases_are_delivered_before_other_work,
        full_node_does_not_fetch,
        closed_pool_does_not_stop_the_others,
        admitted_places_limit_the_work_in_progress,
        slow_provision_is_kept_alive,
        provision_of_a_dead_runner_is_redelivered,
        retry_is_delayed_and_counts_anew,
        provision_that_was_given_up_is_parked,
        unreadable_provision_is_parked,
        old_parked_provisions_are_removed,
        provisions_resume_after_an_outage,
        runners_share_the_work,
        served_pools_change_while_running,
        stopping_runner_finishes_or_returns_its_work,
    }
    ticks {
        a_slot_is_published_once,
        finished_slot_is_not_published_again,
        third_tick_is_merged_into_the_waiting_one,
        forced_tick_is_not_merged_into_another,
        runs_of_a_kind_never_overlap,
        tick_kinds_are_independent,
        report_is_stored_and_returned,
        waiter_gets_the_report_of_a_later_run,
        waiter_without_a_run_times_out,
        current_run_is_finished_before_the_stop,
        run_aborted_by_the_stop_is_repeated,
        last_census_is_shared_by_all_processes,
        table_mark_never_decreases,
        turns_and_periods_are_shared,
        scheduled_tick_carries_the_period_of_its_kind,
    }
    upkeep {
        queue_is_read_in_pages_without_consuming,
        listing_marks_scheduled_retries_and_undecodable_messages,
        delivered_and_waiting_messages_are_distinguished,
        message_is_removed_only_by_its_sequence,
        removed_retry_is_not_redelivered,
        removing_a_message_in_flight_is_harmless,
        parked_copies_are_read_by_pool_and_page,
        lost_parked_copy_is_restored_once,
        undecodable_message_is_parked_under_its_sequence,
        intact_bus_needs_no_repair,
    }
    event_log {
        event_is_appended_after_its_predecessor,
        existing_event_is_not_appended_again,
        events_of_sandboxes_are_independent,
        event_describes_the_transition,
        lifecycle_is_published_once_by_any_number_of_writers,
        noted_events_are_published_in_the_background,
        pending_events_are_published_before_shutdown,
        random_lifecycles_are_published_in_order,
    }
    feed {
        event_log_is_read_from_any_sequence,
        event_log_is_read_from_a_time,
        only_matching_events_are_read,
        new_events_are_notified,
        running_workers_are_discovered,
    }
    throttle {
        throttle_is_shared_by_all_workers,
        concurrent_callers_get_distinct_slots,
        hold_stops_all_workers,
        breaker_is_shared_and_admits_one_probe,
        pause_is_shared_and_expires,
        worker_that_admits_no_work_gets_none,
        the_queue_is_counted_by_pool,
        throttle_state_too_far_ahead_is_bounded,
    }
    outages {
        deletions_resume_after_an_outage,
        announcement_during_an_outage_fails,
        requests_and_ticks_resume_after_an_outage,
        action_refused_in_an_outage_is_not_executed_later,
    }
}
