//! Messages between supervisor, keeper and launcher, with descriptors, over pairs of sockets that keep boundaries.

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use supervisor::frames::FRAME_BYTES_MAX;
use supervisor::{End, Usage};

/// The argument that makes this program a keeper.
pub(crate) const KEEPER: &[u8] = b"job";
/// The argument that makes this program a launcher.
pub(crate) const LAUNCHER: &[u8] = b"launch";
/// The program itself, also if no path leads to it.
const ITSELF: &str = "/proc/self/exe";
/// The standard streams of a job.
const DESCRIPTORS_MAX: usize = 3;

/// What the supervisor tells a keeper after the job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Send this signal to the command's process group.
    Signal(u8),
    /// End every process of the job; with a grace in milliseconds, `SIGTERM` comes first.
    Kill(u64),
}

/// The last words of a keeper: no process of the job is left.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) end: End,
    pub(crate) usage: Usage,
}

/// Starts this program in another mode. Its standard input is the other end of the returned socket.
pub(crate) fn spawn(mode: &str) -> io::Result<(Pid, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = Command::new(ITSELF).arg(mode).stdin(theirs).spawn()?;
    Ok((Pid::from_child(&child), ours))
}

/// The socket to the process that started this one.
pub(crate) fn to_parent() -> io::Result<OwnedFd> {
    rustix::stdio::stdin().try_clone_to_owned()
}

/// Sends a message with descriptors.
pub(crate) fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message and its descriptors. An empty message means that the peer is gone.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC)
}

/// A message that has arrived already.
pub(crate) fn receive_now(socket: impl AsFd) -> Option<Vec<u8>> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT).ok().map(|(message, _)| message)
}

fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; FRAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags)
    })?;
    message.truncate(received.bytes);
    let descriptors = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((message, descriptors.flatten().collect()))
}
