//! What follows from a failure of the engine.

use bollard::errors::Error;
use ports::engine::EngineError;

/// How engines say that their disk is full.
const DISK_FULL: &str = "no space left on device";
/// How they say that a port of the node is in use.
const PORT_TAKEN: [&str; 3] =
    ["port is already allocated", "address already in use", "ports are not available"];

/// The status of an answer; none if there was none.
pub(crate) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What an answer asks for.
pub(crate) fn of_engine(error: Error) -> EngineError {
    let reason = match error {
        Error::DockerResponseServerError { status_code, message } => match status_code {
            _ if message.contains(DISK_FULL) => return EngineError::Full { reason: message },
            400 => return EngineError::Refused { reason: message },
            404 => return EngineError::Gone,
            409 => return EngineError::Unavailable { reason: message },
            _ => message,
        },
        Error::DockerStreamError { error } if error.contains(DISK_FULL) => {
            return EngineError::Full { reason: error };
        }
        Error::DockerStreamError { error } => error,
        // Without an answer it is not known whether it was done.
        other => return EngineError::unavailable(format!("the engine does not answer: {other}")),
    };
    EngineError::Failed { reason }
}

/// Whether a start failed because another process has a port of the node.
pub(crate) fn is_port_conflict(error: &EngineError) -> bool {
    let reason = match error {
        EngineError::Failed { reason } | EngineError::Unavailable { reason } => reason,
        _ => return false,
    };
    PORT_TAKEN.iter().any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status_code: u16, message: &str) -> EngineError {
        of_engine(Error::DockerResponseServerError { status_code, message: message.to_owned() })
    }

    #[test]
    fn each_answer_asks_for_its_reaction() {
        assert!(matches!(of(400, "bad parameter"), EngineError::Refused { .. }));
        assert_eq!(of(404, "No such container: x"), EngineError::Gone);
        assert!(matches!(of(409, "removal is in progress"), EngineError::Unavailable { .. }));
        assert!(matches!(of(500, "OCI runtime create failed"), EngineError::Failed { .. }));
        assert!(matches!(of(500, "write /x: no space left on device"), EngineError::Full { .. }));
        let stream = Error::DockerStreamError { error: "write: no space left on device".to_owned() };
        assert!(matches!(of_engine(stream), EngineError::Full { .. }));
        assert!(matches!(of_engine(Error::RequestTimeoutError), EngineError::Unavailable { .. }));
    }

    #[test]
    fn conflicts_of_ports_are_recognised() {
        for message in [
            "driver failed: Bind for 127.0.0.1:30000 failed: port is already allocated",
            "listen tcp4 127.0.0.1:30000: bind: address already in use",
        ] {
            assert!(is_port_conflict(&of(500, message)), "{message}");
        }
        assert!(!is_port_conflict(&of(500, "no such file")) && !is_port_conflict(&EngineError::Gone));
    }
}
