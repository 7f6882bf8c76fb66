//! The JSON of a fault: one flat object; a field that does not belong to its kind is an error.

use super::{BrokenEntry, Fault, FaultKind};
use serde::{Deserialize, Serialize};

/// Most bytes of a flood, more than any client may read.
const FLOOD_BYTES_MAX: u64 = 67_108_864;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Status,
    Hang,
    Reset,
    Garbage,
    Flood,
    EmptyList,
    ShortList,
    OverlappingPages,
    MalformedEntry,
    DeleteThenHang,
}

/// The JSON form of a fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireFault {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_as_date: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<BrokenEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
}

impl TryFrom<WireFault> for Fault {
    type Error = String;

    fn try_from(wire: WireFault) -> Result<Self, String> {
        let WireFault {
            kind,
            status,
            message,
            retry_after_seconds,
            retry_after_as_date,
            bytes,
            pages,
            entry,
            probability,
            next,
            account,
        } = wire;
        let has_status_field = status.is_some()
            || message.is_some()
            || retry_after_seconds.is_some()
            || retry_after_as_date.is_some();
        let stray = (has_status_field && !matches!(kind, Kind::Status))
            || (bytes.is_some() && !matches!(kind, Kind::Flood))
            || (pages.is_some() && !matches!(kind, Kind::ShortList))
            || (entry.is_some() && !matches!(kind, Kind::MalformedEntry));
        if stray {
            return Err(format!("a fault of kind {kind:?} has a field of another kind"));
        }
        let kind = match kind {
            Kind::Status => FaultKind::Status {
                status: status.ok_or("a status fault needs status")?,
                message,
                retry_after_seconds,
                retry_after_as_date: retry_after_as_date.unwrap_or(false),
            },
            Kind::Hang => FaultKind::Hang,
            Kind::Reset => FaultKind::Reset,
            Kind::Garbage => FaultKind::Garbage,
            Kind::Flood => FaultKind::Flood {
                bytes: bytes
                    .filter(|bytes| *bytes <= FLOOD_BYTES_MAX)
                    .ok_or_else(|| format!("a flood needs bytes, at most {FLOOD_BYTES_MAX}"))?,
            },
            Kind::EmptyList => FaultKind::EmptyList,
            Kind::ShortList => FaultKind::ShortList { pages: pages.ok_or("a short_list needs pages")? },
            Kind::OverlappingPages => FaultKind::OverlappingPages,
            Kind::MalformedEntry => FaultKind::MalformedEntry(entry.ok_or("a malformed_entry needs entry")?),
            Kind::DeleteThenHang => FaultKind::DeleteThenHang,
        };
        Ok(Self { kind, probability, next, account })
    }
}

impl From<Fault> for WireFault {
    fn from(fault: Fault) -> Self {
        let Fault { kind, probability, next, account } = fault;
        let mut wire = Self {
            kind: Kind::Hang,
            status: None,
            message: None,
            retry_after_seconds: None,
            retry_after_as_date: None,
            bytes: None,
            pages: None,
            entry: None,
            probability,
            next,
            account,
        };
        wire.kind = match kind {
            FaultKind::Status { status, message, retry_after_seconds, retry_after_as_date } => {
                wire.status = Some(status);
                wire.message = message;
                wire.retry_after_seconds = retry_after_seconds;
                wire.retry_after_as_date = retry_after_as_date.then_some(true);
                Kind::Status
            }
            FaultKind::Hang => Kind::Hang,
            FaultKind::Reset => Kind::Reset,
            FaultKind::Garbage => Kind::Garbage,
            FaultKind::Flood { bytes } => {
                wire.bytes = Some(bytes);
                Kind::Flood
            }
            FaultKind::EmptyList => Kind::EmptyList,
            FaultKind::ShortList { pages } => {
                wire.pages = Some(pages);
                Kind::ShortList
            }
            FaultKind::OverlappingPages => Kind::OverlappingPages,
            FaultKind::MalformedEntry(entry) => {
                wire.entry = Some(entry);
                Kind::MalformedEntry
            }
            FaultKind::DeleteThenHang => Kind::DeleteThenHang,
        };
        wire
    }
}
