//! One suite for both buses: in memory, and on a real NATS server.
//!
//! Each case is a function over an engine; the macros below make a test of every case on every engine. What only
//! NATS has (headers on the wire, subjects) and what only memory has (a clock that the test moves, calls that are
//! lost on purpose) has its tests beside the suite.

mod deletions;
mod delivery;
mod desk;
mod engines;
mod feed;
mod fixtures;
mod ledger;
mod line;
mod links;
mod on_memory;
mod on_nats;
mod outages;
mod requests;
mod skew;
mod ticks;
mod upkeep;
mod whole;

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
        a_failure_carries_its_code_and_the_request,
        a_worker_sees_the_verb_and_what_rides_beside_it,
        nobody_there_is_known_at_once,
        a_worker_without_a_free_place_says_so_at_once,
        a_request_whose_deadline_has_passed_is_dropped,
        work_that_outlives_its_deadline_is_cut_and_says_so,
        work_goes_on_when_its_caller_has_gone,
        a_request_id_that_cannot_be_used_is_replaced,
        a_body_may_be_as_large_as_allowed_and_no_larger,
        every_worker_gets_some_and_every_request_one,
        a_worker_that_leaves_answers_what_it_has,
        a_worker_that_fails_at_one_request_goes_on_with_others,
    }
    deletions {
        a_sandbox_has_one_message,
        what_is_done_or_given_up_may_be_announced_again,
        sandboxes_and_pools_do_not_get_in_each_others_way,
        work_that_names_no_sandbox_is_not_taken,
        a_lost_message_can_be_announced_again,
        the_copy_of_a_parked_deletion_is_kept_once,
        a_message_that_nobody_can_read_is_set_aside,
        a_retry_keeps_what_a_newer_writer_says,
    }
    delivery {
        a_retry_comes_back_after_its_delay_and_holds_no_place,
        the_whole_bus_keeps_to_its_limit,
        a_process_keeps_to_its_own_limit,
        slow_work_is_kept_alive,
        work_of_a_worker_that_fails_is_done_by_the_next,
        work_of_a_process_that_is_gone_is_done_by_another,
        a_consumer_that_stops_finishes_what_it_has,
        a_consumer_that_stops_gives_back_what_it_does_not_finish,
        every_work_of_many_gets_its_verdict,
        a_pool_with_much_work_holds_up_no_other,
        work_of_a_pool_that_nobody_announced_is_found,
    }
    ticks {
        a_slot_is_published_once,
        a_slot_that_was_run_on_is_not_published_again,
        a_third_tick_folds_into_the_one_that_waits,
        an_order_rides_with_its_tick_and_is_not_folded_into_another,
        two_runs_are_never_at_once,
        kinds_do_not_hold_each_other_up,
        a_report_is_kept_and_told,
        who_waits_is_told_of_a_run_that_began_after,
        who_waits_for_nothing_is_told_so_in_time,
        a_run_under_way_is_finished_before_the_stop,
        a_run_that_takes_too_long_to_stop_is_run_again,
        the_last_census_is_kept_for_everybody,
        the_mark_of_the_table_only_rises,
    }
    upkeep {
        the_queue_is_read_page_by_page_and_stays,
        what_is_put_off_and_what_nobody_can_read_is_seen_as_such,
        what_was_handed_out_is_told_from_what_waits,
        a_message_is_taken_out_by_its_sequence_only,
        a_retry_that_is_taken_out_does_not_come_back,
        a_message_taken_out_while_it_is_under_way_harms_nobody,
        what_is_parked_is_read_by_pool_and_page,
        a_lost_copy_is_put_back_at_once_and_once,
        a_message_that_nobody_can_read_is_parked_under_its_sequence,
        a_bus_that_is_whole_needs_no_mending,
    }
    ledger {
        an_event_follows_the_one_before_it,
        an_event_that_is_there_is_not_added_again,
        sandboxes_do_not_get_in_each_others_way,
        an_event_says_what_happened,
        a_life_is_told_once_however_often_and_by_whom,
        what_is_noted_is_told_behind_the_back_of_its_writer,
        what_waits_when_the_process_ends_is_told_before,
        random_lives_are_told_in_order,
    }
    feed {
        the_ledger_is_read_from_any_place_on,
        the_ledger_is_read_from_a_moment_on,
        only_wanted_events_are_read,
        the_bell_rings_for_what_comes,
        workers_are_seen_while_they_work,
    }
    line {
        everybody_stands_in_the_same_line,
        takers_at_once_get_slots_of_their_own,
        a_hold_keeps_everybody_away,
        the_breaker_is_everybodys_and_one_of_them_tries,
        a_pause_is_everybodys_and_ends_by_itself,
        a_worker_that_admits_nothing_is_given_nothing,
        the_queue_is_counted_by_pool,
        a_line_that_was_put_too_far_ahead_holds_nobody_up,
    }
    outages {
        deletions_go_on_after_an_outage,
        an_announcement_during_an_outage_is_not_taken_for_one,
        requests_and_ticks_go_on_after_an_outage,
        an_order_that_is_refused_in_an_outage_is_not_carried_out_after_it,
    }
}
