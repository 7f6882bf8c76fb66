//! What a job may not do. Everything here holds for all of its processes and cannot be undone by them.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getegid, geteuid, getrlimit, set_dumpable_behavior,
    setrlimit, setsid, umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use supervisor::{Job, UID_DEFAULT};

/// The kernel ends jobs before anything else in the sandbox when memory is short.
const OOM_SCORE_ADJ: &str = "500";
/// Files of a job can be read by others and written by its user, unless it decides otherwise.
const UMASK: u32 = 0o022;
/// Bits of a set of capabilities.
const CAPABILITIES_MAX: u32 = u64::BITS;

/// Refused with `EPERM`: mounts, namespaces, other processes' memory, the kernel's state and its keys.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
];
/// Refused with `ENOSYS`, so that programs use an older call, whose arguments a filter can read.
const ABSENT: &[libc::c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup];
/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// The second table of system calls of x86-64, which has the same numbers with this bit, and some of its own.
#[cfg(target_arch = "x86_64")]
const X32_BIT: libc::c_long = 0x4000_0000;
/// `ptrace`, `kexec_load`, `process_vm_readv` and `process_vm_writev` in that table.
#[cfg(target_arch = "x86_64")]
const X32_REFUSED: &[libc::c_long] = &[X32_BIT | 521, X32_BIT | 528, X32_BIT | 539, X32_BIT | 540];

/// Makes this process one that may become the job's command. The error names the step.
pub(crate) fn confine(job: &Job) -> Result<(), String> {
    // As another user it could not do this any more. Not every sandbox has the file.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    step("setsid", setsid().map(drop))?;
    umask(Mode::from_bits_truncate(UMASK));
    limit(Resource::Core, Some(0))?;
    limit(Resource::Nofile, job.limits.open_files)?;
    limit(Resource::Fsize, job.limits.file_bytes)?;
    empty_bounding_set()?;
    let uid = job.uid.unwrap_or(UID_DEFAULT);
    become_user(uid, job.gid.unwrap_or(uid))?;
    let none = CapabilitySet::empty();
    step("ambient capabilities", clear_ambient_capability_set())?;
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    step("capabilities", set_capabilities(None, sets))?;
    step("no_new_privs", set_no_new_privs(true))?;
    filter_calls()
}

/// Hides this process's memory and files from others of its user.
pub(crate) fn hide() -> Result<(), String> {
    step("dumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable))
}

fn step(name: &str, result: Result<(), Errno>) -> Result<(), String> {
    result.map_err(|error| format!("{name}: {error}"))
}

fn limit(resource: Resource, value: Option<u64>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let value = Some(getrlimit(resource).maximum.map_or(value, |hard| hard.min(value)));
    step("limits", setrlimit(resource, Rlimit { current: value, maximum: value }))
}

/// Without the right to do it there is nothing in the set that `no_new_privs` would not withhold.
fn empty_bounding_set() -> Result<(), String> {
    let own = capabilities(None).map_err(|error| format!("capabilities: {error}"))?;
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..CAPABILITIES_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => step("bounding set", remove_capability_from_bounding_set(capability))?,
            Ok(false) => {}
            // The kernel has no more of them.
            Err(_) => break,
        }
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32) -> Result<(), String> {
    let (own_uid, own_gid) = (geteuid().as_raw(), getegid().as_raw());
    let groups = set_thread_groups(&[]);
    if (uid, gid) == (own_uid, own_gid) {
        return Ok(());
    }
    if own_uid != 0 {
        return Err(format!("the supervisor is user {own_uid}:{own_gid} and cannot become {uid}:{gid}"));
    }
    step("setgroups", groups)?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    step("setgid", set_thread_res_gid(group, group, group))?;
    step("setuid", set_thread_res_uid(user, user, user))
}

/// A process of the other architecture that the processor can execute, such as i386, is killed at its first call.
fn filter_calls() -> Result<(), String> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = calls(REFUSED);
    #[cfg(target_arch = "x86_64")]
    refused.extend(X32_REFUSED.iter().map(|call| (*call, Vec::new())));
    refused.extend(namespaces().map_err(|error| format!("seccomp: {error}"))?);
    apply(refused, libc::EPERM)?;
    apply(calls(ABSENT), libc::ENOSYS)
}

fn calls(numbers: &[libc::c_long]) -> BTreeMap<i64, Vec<SeccompRule>> {
    numbers.iter().flat_map(|number| in_all_tables(*number)).map(|number| (number, Vec::new())).collect()
}

#[cfg(target_arch = "x86_64")]
fn in_all_tables(number: libc::c_long) -> [i64; 2] {
    [number, number | X32_BIT]
}

#[cfg(not(target_arch = "x86_64"))]
fn in_all_tables(number: libc::c_long) -> [i64; 1] {
    [number]
}

fn namespaces() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let rules = NEW_NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![is_set])
    });
    let rules: Vec<_> = rules.collect::<Result<_, _>>()?;
    Ok(in_all_tables(libc::SYS_clone).into_iter().map(|number| (number, rules.clone())).collect())
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: libc::c_int) -> Result<(), String> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let describe = |error: &dyn std::fmt::Display| format!("seccomp: {error}");
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| describe(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .map_err(|error| describe(&error))?;
    let program = BpfProgram::try_from(filter).map_err(|error| describe(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| describe(&error))
}
