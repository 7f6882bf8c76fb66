//! Bodies as they cross the wire, to the letter: those of the snapshots in `tests/contract`. A test compares the two.

/// Nothing: the body of a request that needs none.
pub(super) const NOTHING: &str = "{}";
/// What became of a replay.
pub(super) const REPLAYED: &str = r#"{"key":"7","outcome":"replayed"}"#;
/// A tick: a body that says no more than an empty one.
pub(super) const TICK: &str = "{}";
/// A tick of a scheduler.
pub(super) const TICK_SCHEDULED: &str = r#"{"period_seconds":600}"#;
/// The period that pools ask for.
pub(super) const REQUESTED_PERIOD: &str = r#"{"seconds":60}"#;
/// A tick that has a sync follow the listing, whatever it costs.
pub(super) const TICK_FORCED: &str = r#"{"force":true,"by":"alice","wanted_until_ms":1763683225000}"#;
/// A claim that says everything.
pub(super) const ALLOCATE_FULL: &str = r#"{"owner":"student-1","lab":"dns-basics","idempotency_key":"second","pool":"main","name_prefix":"lab-dns-","lab_duration_hours":2,"lab_duration_minutes":90,"warm":"prefer","by":"lab-2026"}"#;
/// The shortest claim.
pub(super) const ALLOCATE_LEAST: &str = r#"{"owner":"student-1"}"#;
/// A lease.
pub(super) const ALLOCATION: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","allocated_at":1763683200,"expires_at":1763697600,"sfdc_account_id":"001SIM000002000000","lease_epoch":3}"#;
/// A sandbox, and who asks.
pub(super) const OWN_SANDBOX: &str = r#"{"sandbox_id":"2000000","owner":"student-1"}"#;
/// The same, asked by an actor on the owner's behalf.
pub(super) const OWN_SANDBOX_BY: &str = r#"{"sandbox_id":"2000000","owner":"student-1","by":"lab-2026"}"#;
/// The lease that is given back, asked on the owner's behalf.
pub(super) const RELEASE_FULL: &str =
    r#"{"sandbox_id":"2000000","owner":"student-1","lease_epoch":3,"by":"lab-2026"}"#;
/// The answer to a release.
pub(super) const RELEASED: &str =
    r#"{"sandbox_id":"2000000","status":"pending_deletion","deletion_requested_at":1763683200}"#;
/// A sandbox as its owner sees it.
pub(super) const HELD: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":"001SIM000002000000"}"#;
/// A sandbox without a holder.
pub(super) const BARE: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed-f0ec-4c4f-9897-a469083a0485","status":"allocated","allocated_to_track":null,"allocated_at":null,"expires_at":null,"track_name":null,"sfdc_account_id":null}"#;
/// The counts.
pub(super) const COUNTS: &str = r#"{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6,"pools":{"main":{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6}},"not_configured":["old"],"labs":{"main":{"dns-basics":2}},"counted":{"by":"census","at":1763683200,"age_seconds":9},"deletions":null}"#;
/// A worker that can work.
pub(super) const HEALTHY: &str = r#"{"store":"ok"}"#;
/// The provider throttle at its beginning.
pub(super) const THROTTLE_NEW: &str = r#"{"next_us":0,"rate_milli":0,"slowed_ms":0,"held_until_ms":0,"failures":0,"failing":{"who":"nobody"},"failing_since_ms":0,"good_ms":0,"forbidden":[],"breaker":{"state":"closed"},"openings":0,"reason":null,"written_ms":0}"#;
/// The line while its breaker lets one call try.
pub(super) const THROTTLE_BROKEN: &str = r#"{"next_us":1763683200000000,"rate_milli":30000,"slowed_ms":1763683200001,"held_until_ms":1763683260000,"failures":5,"failing":{"who":"one","sandbox":"2000000"},"failing_since_ms":1763683190000,"good_ms":1763683180000,"forbidden":[{"sandbox":"2000001","since_ms":1763683170000}],"breaker":{"state":"half_open","probe_us":1763683199000000,"until_ms":1763683379000},"openings":2,"reason":"failures","written_ms":1763683200002}"#;
/// A turn of a tick.
pub(super) const TURN: &str = r#"{"number":4503599627370496,"is_first":false}"#;
/// The operators' switch.
pub(super) const PAUSE: &str =
    r#"{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"}"#;
/// An operator pauses.
pub(super) const ASK_PAUSE: &str =
    r#"{"until_seconds":1800,"until":null,"reason":"maintenance","by":"alice"}"#;
/// An operator resumes.
pub(super) const ASK_RESUME: &str = r#"{"by":"alice"}"#;
/// What was paused until then.
pub(super) const RESUMED: &str =
    r#"{"was_paused":{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"}}"#;
/// The deletions as a whole, within the counts.
pub(super) const ASK_POOL: &str = r#"{"pool":"labs"}"#;

pub(super) const PUT_POOL: &str = r#"{"pool":"labs","settings":{"kind":"account","provider":"csp","name_prefix":"lab-","lease":{"duration_minutes":240,"duration_minutes_max":480,"total_minutes_max":960,"grace_minutes":30},"deletions_in_flight_max":4,"sync_seconds":120},"version":2,"by":"alice"}"#;
pub(super) const PUT_POOL_OF_CONTAINERS: &str = r#"{"pool":"apps","settings":{"kind":"container","template":"app","images":{"allowed":["registry.example.com/team"],"digest_required":true},"runtime":"runsc","untrusted":true}}"#;

pub(super) const POOL_ORDER: &str = r#"{"pool":"labs","version":3,"by":"alice"}"#;

pub(super) const POOL: &str = r#"{"pool":"labs","state":"active","version":3,"settings":{"kind":"account","provider":"csp","name_prefix":"lab-","lease":{"duration_minutes":240},"deletions_in_flight_max":4},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6}}"#;

pub(super) const REMOVED_POOL: &str = r#"{"pool":"labs","state":"unknown","version":0,"settings":{},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":null}"#;

pub(super) const POOLS: &str = r#"{"pools":[{"pool":"labs","state":"draining","version":4,"settings":{"kind":"account","provider":"csp","name_prefix":"lab-"},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":null}],"counted_at":1763683200}"#;

pub(super) const ASK_TEMPLATES: &str = r#"{"cursor":"MR9weXRob24f","limit":50}"#;

pub(super) const TEMPLATES: &str = r#"{"templates":[{"template":"python","version":2,"created_at":1763600000,"updated_at":1763683200}],"cursor":null}"#;

pub(super) const ASK_TEMPLATE: &str = r#"{"template":"python","version":2}"#;

pub(super) const TEMPLATE: &str = r#"{"template":"python","version":2,"current_version":2,"settings":{"kind":"container","image":"python-3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true},"created_at":1763683200,"by":"alice"}"#;

pub(super) const PUT_TEMPLATE: &str = r#"{"template":"python","settings":{"kind":"container","image":"python:3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["curl","-f","localhost:8000"],"timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":true,"supervisor":true},"version":1,"by":"alice"}"#;

pub(super) const REMOVE_TEMPLATE: &str = r#"{"template":"python","version":2,"by":"alice"}"#;

pub(super) const REMOVED_TEMPLATE: &str = r#"{"template":"python","version":2,"current_version":2,"settings":{"kind":"container","image":"python-3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true},"created_at":1763683200,"by":"alice","removed_at":1763686800}"#;

pub(super) const ASK_VERSIONS: &str = r#"{"template":"python","cursor":"MR8zHw","limit":50}"#;

pub(super) const VERSIONS: &str = r#"{"template":"python","versions":[{"version":2,"created_at":1763683200,"by":"alice"},{"version":1,"created_at":1763600000,"by":"alice"}],"cursor":null}"#;

pub(super) const EXECUTION: &str = r#"{"sandbox_id":"ctr_1","owner":"student-1","lease_epoch":1,"command":["sh","-c","cat; echo $GREETING"],"env":{"GREETING":"hello"},"cwd":"/workspace","stdin":"one\n","timeout_seconds":10,"by":"alice"}"#;

pub(super) const EXECUTION_LEAST: &str = r#"{"sandbox_id":"ctr_1","owner":"student-1","command":["true"]}"#;

pub(super) const EXECUTED: &str = r#"{"reason":"exited","exit_code":0,"signal":null,"stdout":"one\nhello\n","stderr":"","truncated":false,"started_ms":2,"ended_ms":4}"#;

pub(super) const TIMED_OUT: &str = r#"{"reason":"timed_out","exit_code":null,"signal":9,"stdout":"","stderr":"","truncated":false,"started_ms":2,"ended_ms":10004}"#;

pub(super) const CLAIM: &str = r#"{"owner":"student-1","lab":"dns-basics","idempotency_key":"demo","pool":"shells","lab_duration_minutes":240,"warm":"prefer","env":{"GREETING":"hello"},"labels":{"team":"blue"},"by":"lab-2026"}"#;

pub(super) const REPLICA: &str = r#"{"owner":"student-1","idempotency_key":"demo-2","replica_of":"ctr_1"}"#;

pub(super) const CLAIMED: &str = r#"{"sandbox_id":"ctr_1","pool":"shells","status":"allocated","runtime":"running","template":"shell@3","node":"node-a","endpoints":[{"port":8000,"address":"192.0.2.7:31000"}],"owner":"student-1","key":"demo","lab":"dns-basics","labels":{"team":"blue"},"lease_epoch":1,"allocated_at":1763683200,"expires_at":1763697600,"ready_at":1763683201}"#;

pub(super) const STOPPED: &str = r#"{"sandbox_id":"ctr_1","pool":"shells","status":"allocated","runtime":"stopped","template":"shell@3","node":"node-a","endpoints":[{"port":8000,"address":"192.0.2.7:31000"}],"owner":"student-1","key":"demo","lab":"dns-basics","labels":{"team":"blue"},"lease_epoch":1,"allocated_at":1763683200,"expires_at":1763697600,"ready_at":1763683201}"#;

pub(super) const LOST: &str = r#"{"sandbox_id":"ctr_1","pool":"shells","status":"allocated","runtime":"failed","runtime_reason":"node_lost","template":"shell@3","node":"node-a","endpoints":[{"port":8000,"address":"192.0.2.7:31000"}],"owner":"student-1","key":"demo","lab":"dns-basics","labels":{"team":"blue"},"lease_epoch":1,"allocated_at":1763683200,"expires_at":1763697600,"ready_at":1763683201}"#;

pub(super) const CREATING: &str = r#"{"sandbox_id":"ctr_2","pool":"shells","status":"provisioning","template":"shell@3","owner":"student-1","key":"demo-2","lease_epoch":1,"allocated_at":1763683200,"expires_at":1763697600,"error":"its main command cannot be started: no such file"}"#;

pub(super) const ASK_CLAIMS: &str = r#"{"owner":"student-1","cursor":"MR9weXRob24f","limit":50}"#;

pub(super) const CLAIMS: &str = r#"{"claims":[{"sandbox_id":"ctr_1","pool":"shells","status":"allocated","runtime":"running","template":"shell@3","node":"node-a","endpoints":[{"port":8000,"address":"192.0.2.7:31000"}],"owner":"student-1","key":"demo","lab":"dns-basics","labels":{"team":"blue"},"lease_epoch":1,"allocated_at":1763683200,"expires_at":1763697600,"ready_at":1763683201}],"cursor":null}"#;

pub(super) const OWN_CONTAINER: &str = r#"{"sandbox_id":"ctr_1","owner":"student-1"}"#;

pub(super) const STOP: &str =
    r#"{"sandbox_id":"ctr_1","owner":"student-1","action":"stop","lease_epoch":1,"by":"lab-2026"}"#;

pub(super) const STOP_LEAST: &str = r#"{"sandbox_id":"ctr_1","owner":"student-1","action":"stop"}"#;

pub(super) const STOP_CONTAINER: &str =
    r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","action":"stop"}"#;

pub(super) const CONTAINER_STOPPED: &str = r#"{"runtime":"stopped"}"#;

pub(super) const ASK_NODES: &str = r#"{"cursor":"MR9weXRob24f","limit":50}"#;

pub(super) const ASK_NODE: &str = r#"{"node":"node-a"}"#;

pub(super) const NODE_VIEW: &str = r#"{"node":"node-a","status":"active","engine":"namespaces","isolation":"process","version":"0.1.0","generation":3,"registered_at":1763683200,"load":{"sandboxes":3,"leased":1,"sandboxes_max":8,"cpu_milli":3000,"cpu_milli_max":8000,"memory_mb":1536,"memory_mb_max":8192,"unsupported":["disk_limit: folders on disk have no quota; use a workspace in memory"]}}"#;

pub(super) const NODES: &str = r#"{"nodes":[{"node":"node-a","status":"active","engine":"namespaces","isolation":"process","version":"0.1.0","generation":3,"registered_at":1763683200,"load":{"sandboxes":3,"leased":1,"sandboxes_max":8,"cpu_milli":3000,"cpu_milli_max":8000,"memory_mb":1536,"memory_mb_max":8192,"unsupported":["disk_limit: folders on disk have no quota; use a workspace in memory"]}},{"node":"node-b","status":"lost","engine":"namespaces","isolation":"process","version":"0.1.0","generation":5,"registered_at":1763683200,"lost_at":1763690000,"load":null}],"cursor":null}"#;

pub(super) const DRAIN_NODE: &str = r#"{"node":"node-a","leases_end_in_seconds":3600,"by":"alice"}"#;

pub(super) const DRAINED_NODE: &str = r#"{"node":"node-a","status":"draining","engine":"namespaces","isolation":"process","version":"0.1.0","generation":3,"registered_at":1763683200,"drained_at":1763690000,"leases_end_at":1763693600,"load":{"sandboxes":3,"leased":1,"sandboxes_max":8,"cpu_milli":3000,"cpu_milli_max":8000,"memory_mb":1536,"memory_mb_max":8192,"unsupported":["disk_limit: folders on disk have no quota; use a workspace in memory"]}}"#;

pub(super) const ACTIVATE_NODE: &str = r#"{"node":"node-a","by":"alice"}"#;

pub(super) const LOAD: &str = r#"{"generation":3,"missing":[],"load":{"sandboxes":3,"leased":1,"sandboxes_max":8,"cpu_milli":3000,"cpu_milli_max":8000,"memory_mb":1536,"memory_mb_max":8192,"unsupported":["disk_limit: folders on disk have no quota; use a workspace in memory"]}}"#;

pub(super) const REGISTER_NODE: &str =
    r#"{"node":"node-a","engine":"namespaces","isolation":"process","version":"0.1.0"}"#;

pub(super) const NODE_REGISTERED: &str = r#"{"node":"node-a","generation":3}"#;

pub(super) const NODE: &str = r#"{"node":"node-a","generation":3}"#;

pub(super) const NODE_POOLS: &str = r#"{"pools":[{"pool":"shells","template":"shell@3","settings":{"kind":"container","image":"host","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["true"],"timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true}}]}"#;

pub(super) const ASK_WANTED: &str = r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1}"#;

pub(super) const WANTED: &str = r#"{"wanted":{"attempts":1,"settings":{"kind":"container","image":"python:3.12","command":["sleep","infinity"],"cpu_milli":500,"memory_mb":256,"tmpfs_mb":64,"workspace_mb":64,"workspace":"/workspace","pids":64,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":false,"supervisor":true},"lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}}"#;

pub(super) const UNWANTED: &str = r#"{"wanted":null}"#;

pub(super) const PROVISIONED: &str = r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1,"incarnation":"0198c0de-0000-7000-8000-000000000001","endpoints":{"8000":"192.0.2.7:31000"},"network":"internal"}"#;

pub(super) const KEPT: &str =
    r#"{"fate":"keep","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#;

pub(super) const PROVISION_FAILED: &str = r#"{"node":"node-a","generation":3,"sandbox_id":"ctr_1","epoch":1,"attempts":1,"reason":"not ready within 30 s","is_final":false}"#;

pub(super) const PROVISION_RETRIED: &str = r#"{"next":"retry","attempts":2}"#;

pub(super) const ASK_HELD: &str = r#"{"node":"node-a","generation":3,"containers":[{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001"},{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}]}"#;

pub(super) const HOLDINGS: &str = r#"{"holdings":[{"fate":"keep","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}},{"fate":"remove","lease":null}]}"#;

pub(super) const REMOVE_CONTAINERS: &str = r#"{"sandbox_id":"ctr_1"}"#;

pub(super) const CONTAINERS_REMOVED: &str = r#"{"removed":1}"#;

pub(super) const TELL_LEASE: &str = r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#;

pub(super) const LEASE_STORED: &str = r#"{"lease":{"epoch":1,"ends_at":1763697600,"grace_seconds":60}}"#;

pub(super) const ASK_INVENTORY: &str = r#"{"containers":[{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001"},{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}]}"#;

pub(super) const INVENTORY: &str = r#"{"generation":3,"missing":[{"sandbox_id":"ctr_2","incarnation":"0198c0de-0000-7000-8000-000000000002"}],"idle":[{"sandbox_id":"ctr_3","incarnation":"0198c0de-0000-7000-8000-000000000003","runtime":"stopped"}]}"#;

pub(super) const EXECUTE_FULL: &str = r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","command":["sh","-c","cat; echo $GREETING"],"env":{"GREETING":"hello"},"cwd":"/workspace","stdin":"one\n","timeout_seconds":10}"#;

pub(super) const EXECUTE_LEAST: &str = r#"{"sandbox_id":"ctr_1","incarnation":"0198c0de-0000-7000-8000-000000000001","command":["true"],"env":{},"timeout_seconds":10}"#;

pub(super) const DELETIONS_STATUS: &str = r#"{"state":"paused","paused":{"by":"operator","since":1763683200,"until":1763683260,"reason":"maintenance"},"breaker":{"state":"open","reason":"failures","until":1,"failures":5},"held_until":1763683260,"rate_per_minute":30,"rate_per_minute_max":60,"consumer_paused_until":1763683300,"pools":{"main":{"waiting":3,"under_way":2,"consumer_paused_until":1763683300}}}"#;
/// Deletion work.
pub(super) const WORK: &str = r#"{"version":1,"sandbox_id":"2000000","pool":"main","epoch":3,"requested_at":1763683200,"external_id":"identity/accounts/u-0"}"#;
/// Deletion work that was given up.
pub(super) const PARKED: &str = r#"{"version":1,"sandbox_id":"2000000","pool":"main","epoch":3,"requested_at":1763683200,"external_id":"identity/accounts/u-0","attempts":8,"reason":"the provider answered 500","parked_at":1763686800}"#;
/// Work that creates a sandbox for a claim.
pub(super) const PROVISION_LEASED: &str = r#"{"version":1,"sandbox_id":"ctr_1","pool":"shells","epoch":1,"template":"shell@3","is_leased":true,"requested_at":1763683200}"#;
/// Work that creates a free sandbox.
pub(super) const PROVISION_FILL: &str = r#"{"version":1,"sandbox_id":"ctr_2","pool":"shells","epoch":0,"template":"shell@3","is_leased":false,"requested_at":1763683200}"#;
/// A sync that would have harmed the pool.
pub(super) const REPORT_SYNC_REFUSED: &str = r#"{"tick":17,"duration_ms":100,"kind":"sync","status":"refused","reason":"9 of 10 would be marked stale","forced_by":"alice","listed":1,"synced":10,"inserted":1,"restored":2,"refreshed":3,"unchanged":4,"marked_stale":5,"allocated_missing":6,"tombstoned":7,"skipped":8,"raced":9,"unreadable":1,"renewed":10,"identity_changed":11,"identity_taken":12,"relisted":13,"identities_dropped":14,"unclear":15,"withheld":16}"#;
/// A sync that did its work.
pub(super) const REPORT_SYNC: &str = r#"{"tick":18,"duration_ms":0,"kind":"sync","status":"completed","listed":0,"synced":0,"inserted":0,"restored":0,"refreshed":0,"unchanged":0,"marked_stale":0,"allocated_missing":0,"tombstoned":0,"skipped":0,"raced":0,"unreadable":0,"renewed":0,"identity_changed":0,"identity_taken":0,"relisted":0,"identities_dropped":0,"unclear":0,"withheld":0}"#;
/// The census.
pub(super) const CENSUS: &str = r#"{"taken_at":1763683200,"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0,"pools":{"main":{"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0}},"labs":{"main":{"dns-basics":2}},"labs_left_out":4,"violations":{"claim_elsewhere":0,"claim_missing":0,"held_twice":0,"identity_twice":0},"oldest_deletions":{"main":1763683100}}"#;
/// The report of a census.
pub(super) const REPORT_CENSUS: &str = r#"{"tick":21,"duration_ms":9,"kind":"census","status":"completed","taken_at":1763683200,"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0,"pools":{"main":{"total":3,"available":1,"allocated":2,"pending_deletion":0,"stale":0,"deletion_failed":0,"quarantined":0}},"labs":{"main":{"dns-basics":2}},"labs_left_out":4,"violations":{"claim_elsewhere":0,"claim_missing":0,"held_twice":0,"identity_twice":0},"oldest_deletions":{"main":1763683100},"checked":5,"unchecked":6,"raced":7,"claims_removed":8,"unreadable":1,"identities_made":9,"duplicates_quarantined":10}"#;
/// The report of a removal of stale sandboxes.
pub(super) const REPORT_STALE: &str = r#"{"tick":22,"duration_ms":9,"kind":"stale","status":"completed","grace_period_hours":24,"due":3,"removed":1,"deleted":1,"raced":2,"untold":4,"unreadable":1}"#;
/// The report of a look at the nodes.
pub(super) const REPORT_NODES: &str = r#"{"tick":24,"duration_ms":9,"kind":"nodes","status":"completed","present":3,"silent":{"node-b":16},"lost":["node-c"],"retired":1,"leased_missing":2,"failed":1,"ended":1,"raced":3,"unannounced":4,"unreadable":1}"#;
/// The report of a fill of pools.
pub(super) const REPORT_FILL: &str = r#"{"tick":23,"duration_ms":9,"kind":"fill","status":"completed","created":1,"reannounced":2,"retired":3,"raced":4,"unannounced":5,"missing":{"shells":2},"degraded":{"shells":"no such image"},"unreadable":1}"#;
/// The report of an expiry run.
pub(super) const REPORT_EXPIRY: &str = r#"{"tick":19,"duration_ms":12,"kind":"expiry","status":"completed","due":4,"expired":3,"raced":1,"unannounced":2,"unreadable":1}"#;
/// The report of a sweep.
pub(super) const REPORT_SWEEP: &str = r#"{"tick":20,"duration_ms":9,"kind":"sweep","status":"failed","pending":3,"reannounced":1,"waiting":2,"unqueued":4,"parked":5,"reparked":6,"unparked":7,"events_filled":8,"deleted":2,"failed":1,"unreadable":1}"#;
/// Which parked deletions to show.
pub(super) const ASK_PARKED: &str = r#"{"pool":"main","reason":"500","cursor":40,"limit":100}"#;
/// A page of what was parked.
pub(super) const ALL_PARKED: &str = r#"{"parked":[{"key":"2000000","pool":"main","reason":"status 500","attempts":8,"parked_at":1763686800},{"key":"_unreadable.7","pool":null,"reason":"status 500","attempts":null,"parked_at":1763686800}],"count":2,"cursor":null}"#;
/// A sandbox.
pub(super) const ONE_SANDBOX: &str = r#"{"sandbox_id":"2000000"}"#;
/// The end of one sandbox.
pub(super) const DELETION: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"pending_deletion","requested_at":1763683200,"attempts":0,"last_error":"status 500","pre_clean":{"result":"failed","services":null,"reason":"status 500","went_on":true,"summary":"failed, went on without: status 500"},"queued":[{"put_off":true,"since":1763686900,"due_at":1763686960}],"parked":null,"history":[{"version":5,"epoch":1,"status":"pending_deletion","cause":"replayed","at":1763686900,"by":"alice"}]}"#;
/// Which deletions to show.
pub(super) const ASK_DELETIONS: &str =
    r#"{"pool":"main","status":"deletion_failed","cursor":"main.deletion_failed.0.","limit":100}"#;
/// A page of the deletion queue.
pub(super) const DELETIONS: &str = r#"{"deletions":[{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"pending_deletion","place":"retrying","requested_at":1763683200,"age_seconds":60,"attempts":1,"last_error":"status 500","retry_at":1763683270,"pre_clean":{"result":"cleaned","services":2,"reason":null,"went_on":false,"summary":"cleaned 2"}}],"count":1,"cursor":null,"totals":{"pending":3,"parked":1,"waiting":1,"running":1,"retrying":1,"oldest_requested_at":1763683200,"oldest_age_seconds":60}}"#;
/// More time.
pub(super) const EXTEND: &str = r#"{"sandbox_id":"2000000","owner":"student-1","lab_duration_hours":6,"lab_duration_minutes":330,"lease_epoch":3,"by":"lab-2026"}"#;
/// An operator's order.
pub(super) const ORDER: &str = r#"{"sandbox_id":"2000000","reason":"smoke in it","by":"alice"}"#;
/// The answer to an order.
pub(super) const ORDERED: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","pool":"main","status":"quarantined","history":[{"version":2,"epoch":0,"status":"quarantined","cause":"quarantined","at":1763683200,"by":"alice","reason":"smoke in it"}]}"#;
/// Something parked, and who asks.
pub(super) const KEY: &str = r#"{"key":"2000000","by":"alice"}"#;
/// All of a pool, and who asks.
pub(super) const REPLAY_ALL: &str = r#"{"pool":"main","by":"alice"}"#;
/// What a page of replays did.
pub(super) const REPLAYED_ALL: &str =
    r#"{"replayed":1,"already_on_the_way":2,"gone":3,"unreadable":4,"failed":5,"cursor":40}"#;
/// A parked creation, and who asks.
pub(super) const REPLAY_PROVISION: &str = r#"{"sandbox_id":"ctr_1","by":"alice"}"#;
/// All parked creations of a pool with an error, and who asks.
pub(super) const REPLAY_PROVISIONS: &str =
    r#"{"pool":"shells","reason":"image","cursor":"provision_failed.shells.3..0a","limit":100,"by":"alice"}"#;
/// What a page of replayed creations did.
pub(super) const REPLAYED_PROVISIONS: &str =
    r#"{"replayed":1,"already_on_the_way":2,"gone":3,"failed":4,"cursor":"provision_failed.shells.3..0a"}"#;
/// What became of a removal.
pub(super) const REMOVED: &str = r#"{"key":"_unreadable.7","removed":true}"#;
/// Which sandboxes to list.
pub(super) const ASK_SANDBOXES: &str = r#"{"status":"allocated","pool":"main","lab":"dns-basics","owner":"student-1","name_prefix":"lab-","cursor":"claims....0a","limit":100}"#;
/// A page of sandboxes.
pub(super) const SANDBOXES: &str = r#"{"sandboxes":[{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":null,"pool":"main","version":2,"epoch":1,"changed_at":1763683200},{"sandbox_id":"ctr_1","name":"ctr_1","external_id":"ctr_1","status":"provision_failed","allocated_to_track":null,"allocated_at":null,"expires_at":null,"track_name":null,"sfdc_account_id":null,"pool":"shells","version":2,"epoch":0,"changed_at":1763683200,"provision":{"requested_at":1763683100,"attempts":5,"last_error":"no such image"}}],"count":2,"cursor":null}"#;
/// Everything about one sandbox.
pub(super) const RECORD: &str = r#"{"sandbox_id":"2000000","name":"lab-00000","external_id":"a90deeed","status":"allocated","allocated_to_track":"student-1","allocated_at":1763683200,"expires_at":1763697600,"track_name":"dns-basics","sfdc_account_id":null,"pool":"main","version":2,"epoch":1,"changed_at":1763683200,"provider_id":"identity/accounts/a90deeed","since":null,"quarantine_reason":null,"lease":{"owner":"student-1","lab":"dns-basics","epoch":1,"claimed_version":1,"granted_at":1763683200,"expires_at":1763697600,"is_live":false},"deletion":{"cause":"released","requested_at":1763690000,"attempts":1,"last_error":"status 500","pre_clean":null},"tombstone":{"deleted_at":1763690010,"purge_at":1766282010},"history":[{"version":1,"epoch":0,"status":"available","cause":"listed","at":1763600000}]}"#;
/// Which records to remove.
pub(super) const ASK_BULK_DELETE: &str =
    r#"{"status":"stale","pool":"main","dry_run":true,"cursor":"stale.main.3..0a","limit":100,"by":"alice"}"#;
/// What a removal of records did.
pub(super) const BULK_DELETED: &str = r#"{"status":"stale","dry_run":false,"removed":1,"refused":2,"raced":3,"failed":4,"untold":5,"reason":"replay them","sandboxes":[{"sandbox_id":"2000000","name":"lab-00000","pool":"main","outcome":"removed"}],"more":true,"cursor":"stale.main.3..0a"}"#;
/// The highest mark of the table.
pub(super) const KNOWN_MARK: &str = r#"{"number":4711,"at":1763683200}"#;
/// The first event of a sandbox.
pub(super) const EVENT_LISTED: &str = r#"{"specversion":"1.0","id":"2000000:1","source":"/sandbox-broker","type":"sandbox.listed","subject":"2000000","time":"2025-11-21T00:00:00Z","datacontenttype":"application/json","data":{"pool":"main","from":null,"to":"available","version":1,"epoch":0,"owner":null,"lab":null,"by":"sync"}}"#;
/// The event of a claim.
pub(super) const EVENT_CLAIMED: &str = r#"{"specversion":"1.0","id":"2000000:2","source":"/sandbox-broker","type":"sandbox.claimed","subject":"2000000","time":"2025-11-21T00:00:00Z","datacontenttype":"application/json","data":{"pool":"main","from":"available","to":"allocated","version":2,"epoch":1,"owner":"student-1","lab":"dns-basics","by":"student-1","request_id":"r-1"}}"#;
/// A report of each kind of run.
pub(super) const REPORTS: [&str; 8] = [
    REPORT_SYNC,
    REPORT_SYNC_REFUSED,
    REPORT_EXPIRY,
    REPORT_SWEEP,
    REPORT_CENSUS,
    REPORT_STALE,
    REPORT_FILL,
    REPORT_NODES,
];
