//! The requests of clients.

use super::Server;
use crate::connection::Connection;
use crate::handover::{self, Order};
use crate::supervised::Supervised;
use rustix::process::Signal;
use supervisor::{
    Call, Chunk, GRACE_MS_MAX, JOBS_MAX, Job, JobId, Offsets, Refusal, RefusalCode, Request, Response,
    Stream, VERSION_MAX, VERSION_MIN,
};

impl Server {
    /// Bytes for the standard input of a job. A job that is gone takes none.
    pub(super) fn take_chunk(&mut self, connection: &mut Connection, chunk: &Chunk) {
        if !connection.is_greeted || chunk.stream != Stream::Stdin {
            let problem = "bytes are sent after hello, and for standard input";
            return connection.refuse(0, RefusalCode::Protocol, problem.to_owned());
        }
        let taken = self.jobs.get_mut(&chunk.id).map(|job| job.input.take(chunk.offset, &chunk.bytes));
        if let Some(Err(problem)) = taken {
            connection.refuse(0, RefusalCode::Protocol, format!("{}: {problem}", chunk.id));
        }
    }

    pub(super) fn answer(&mut self, connection: &mut Connection, Call { seq, request }: Call) {
        match (connection.is_greeted, request) {
            (false, Request::Hello { version_min, version_max }) => {
                let version = version_max.min(VERSION_MAX);
                if version < version_min.max(VERSION_MIN) {
                    let problem = format!(
                        "the supervisor speaks versions {VERSION_MIN} to {VERSION_MAX}, the client {version_min} to {version_max}"
                    );
                    return connection.refuse(seq, RefusalCode::Version, problem);
                }
                connection.is_greeted = true;
                connection.respond(seq, Response::Welcome { version });
            }
            (false, _) | (true, Request::Hello { .. }) => {
                let problem = "the first request is hello, and no other one";
                connection.refuse(seq, RefusalCode::Protocol, problem.to_owned());
            }
            (true, request) => {
                let response = self.carry_out(connection, request).unwrap_or_else(Response::Refused);
                connection.respond(seq, response);
            }
        }
    }

    fn carry_out(&mut self, connection: &mut Connection, request: Request) -> Result<Response, Refusal> {
        match request {
            Request::Hello { .. } => {}
            Request::Start(job) => {
                self.start(&job)?;
                connection.attach(job.id, Offsets::default());
            }
            Request::Attach { id, from } => {
                let state = self.job(&id)?.state();
                connection.attach(id, from);
                return Ok(Response::Attached(state));
            }
            Request::More { id, frames } => connection.allow_more(&id, frames),
            Request::Consumed { id, until } => {
                let job = self.job(&id)?;
                job.stdout.free(until.stdout);
                job.stderr.free(until.stderr);
            }
            Request::EndStdin { id } => self.job(&id)?.input.end(),
            Request::Signal { id, signal } => {
                Signal::from_named_raw(i32::from(signal)).ok_or_else(|| {
                    Refusal::new(RefusalCode::Invalid, "a signal has a number from 1 to 31")
                })?;
                self.running(&id)?.order(&Order::Signal(signal));
            }
            Request::Kill { id, grace_ms } => {
                if grace_ms > GRACE_MS_MAX {
                    return Err(Refusal::new(RefusalCode::Invalid, "grace_ms is too large"));
                }
                self.running(&id)?.order(&Order::Kill(grace_ms));
            }
            Request::Acknowledge { id } => {
                if self.job(&id)?.ended.is_none() {
                    return Err(Refusal::new(RefusalCode::Running, "the job has not ended"));
                }
                self.jobs.remove(&id);
            }
            Request::List => return Ok(Response::Jobs(self.jobs.values().map(Supervised::state).collect())),
        }
        Ok(Response::Done)
    }

    fn start(&mut self, job: &Job) -> Result<(), Refusal> {
        if self.stop_at.is_some() {
            return Err(Refusal::new(RefusalCode::Stopping, "the supervisor is ending"));
        }
        if let Some(problem) = job.problem() {
            return Err(Refusal::new(RefusalCode::Invalid, problem));
        }
        if self.jobs.contains_key(&job.id) {
            return Err(Refusal::new(RefusalCode::Exists, "a job with this id exists"));
        }
        if self.jobs.len() >= JOBS_MAX {
            return Err(Refusal::new(RefusalCode::Exhausted, "too many jobs run or are not acknowledged"));
        }
        let keeper = self.spare.take().map_or_else(|| handover::spawn("job"), Ok);
        let started = keeper.and_then(|keeper| Supervised::start(job, keeper)).map_err(|error| {
            Refusal::new(RefusalCode::Exhausted, format!("the job cannot be started: {error}"))
        })?;
        self.jobs.insert(job.id.clone(), started);
        Ok(())
    }

    fn job(&mut self, id: &JobId) -> Result<&mut Supervised, Refusal> {
        self.jobs.get_mut(id).ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no job has this id"))
    }

    fn running(&mut self, id: &JobId) -> Result<&mut Supervised, Refusal> {
        let job = self.job(id)?;
        if job.ended.is_none() { Ok(job) } else { Err(Refusal::new(RefusalCode::Ended, "the job has ended")) }
    }
}
