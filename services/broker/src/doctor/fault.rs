//! The faults that `broker doctor` knows, each with its remedy.

use serde::Serialize;
use strum::IntoEnumIterator as _;

/// A fault.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, strum::EnumIter,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Settings cannot be read.
    SettingsInvalid,
    /// NATS cannot be reached.
    NatsUnreachable,
    /// NATS refuses the credentials, or they cannot be read.
    NatsCredentialsRefused,
    /// NATS is reached and unfit for the fleet.
    NatsUnfit,
    /// The user lacks permissions.
    PermissionMissing,
    /// NATS has no JetStream.
    JetstreamOff,
    /// A stream, bucket or consumer is missing.
    StreamMissing,
    /// A stream, bucket or consumer has other settings than this environment.
    StreamDiffers,
    /// The clock of this machine differs from that of NATS.
    ClockSkewed,
    /// A role does not answer.
    RoleMissing,
    /// A role has another version.
    VersionDiffers,
    /// Roles have different settings.
    SettingsDrift,
    /// The table does not answer.
    TableUnreachable,
    /// There is no table.
    TableMissing,
    /// The table has other keys.
    TableDiffers,
    /// An index is missing.
    IndexMissing,
    /// An index is not complete.
    IndexNotReady,
    /// Time to live is off.
    TtlOff,
    /// The table has other shared settings.
    SharedSettingsDiffer,
    /// The provider cannot be reached.
    ProviderUnreachable,
    /// The provider refuses the token.
    ProviderTokenRefused,
    /// The provider answers with an error.
    ProviderFails,
}

// === impl Fault ===

impl Fault {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::SettingsInvalid => "correct the settings (docs/configuration.md)",
            Self::NatsUnreachable => {
                "start nats-server, or correct NATS_URL or the context (`broker context list`); check firewall and TLS"
            }
            Self::NatsCredentialsRefused => {
                "correct NATS_CREDENTIALS_FILE, or NATS_USER with its password; the users are in nats/accounts.conf"
            }
            Self::NatsUnfit => "start nats-server with nats/server.conf, or correct the limit that is named",
            Self::PermissionMissing => {
                "give the user the permissions of `operator` in nats/accounts.conf, and reload the server"
            }
            Self::JetstreamOff => "enable JetStream for the server and the account (nats/server.conf)",
            Self::StreamMissing => {
                "start any worker: it creates what is missing (NATS_CHECK_SECONDS); if it does, its log says why it cannot"
            }
            Self::StreamDiffers => {
                "give this environment the settings of the fleet; if they are the same, the reconciler corrects the \
                 stream, or its log says why it cannot"
            }
            Self::ClockSkewed => {
                "set the clock of this machine or that of the NATS server (NTP); a role with such a clock takes no work"
            }
            Self::RoleMissing => {
                "start the role (`broker <role>`); if it runs, look at its /readyz and its log"
            }
            Self::VersionDiffers => {
                "finish the update: restart the role with this build, or use the build of the fleet"
            }
            Self::SettingsDrift => {
                "give every role the same value and restart it; during a restart it passes"
            }
            Self::TableUnreachable => {
                "correct DYNAMODB_ENDPOINT or AWS_REGION, and the AWS credentials and their rights (SECURITY.md)"
            }
            Self::TableMissing => "correct DYNAMODB_TABLE, or start an allocator, which creates the table",
            Self::TableDiffers => "use another table: keys cannot be changed (docs/architecture.md)",
            Self::IndexMissing => {
                "`broker table index show` prints the next step for LabIndex and GroupIndex (docs/operations.md); a \
                 table without StateIndex is not one of the broker's"
            }
            Self::IndexNotReady => {
                "wait until it is complete; `broker table index show` prints the next step"
            }
            Self::TtlOff => {
                "enable time to live on the attribute `ttl` (`aws dynamodb update-time-to-live`); without it tombstones \
                 and old claims pile up"
            }
            Self::SharedSettingsDiffer => {
                "correct the settings here, or let the table take them: `broker table agree` (docs/recovery.md)"
            }
            Self::ProviderUnreachable => {
                "correct CSP_BASE_URL; check DNS, firewall and TLS from this machine"
            }
            Self::ProviderTokenRefused => {
                "renew the token (CSP_API_TOKEN or CSP_API_TOKEN_FILE) and its rights"
            }
            Self::ProviderFails => {
                "wait and repeat; if it stays, ask the provider about the answer that is named"
            }
        }
    }
}

/// The names of all faults, for the help of the command.
pub(super) fn help() -> String {
    let names: Vec<_> = Fault::iter().map(Fault::as_str).collect();
    format!("Faults: {}.\nExit codes: 0 no fault, 1 any fault.", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_and_in_json_are_the_same() {
        for fault in Fault::iter() {
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.as_str());
        }
    }
}
