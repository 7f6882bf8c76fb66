//! What a sandbox may send: rules of nftables in its network namespace, which commands cannot change without capabilities.

use super::{INTERNAL_INTERFACE, Policy};
use host::BLOCKED_V4;

/// Where clouds answer with credentials of the machine, and what is local to a link (IPv6).
const BLOCKED_V6: &str = "fe80::/10, fd00:ec2::254";
/// A blocked connection fails at once, as without a route.
const REJECT: &str = "reject with icmpx type no-route";

/// Makes the rules of a sandbox that may reach this. Replies to what comes in through published ports are always sent.
pub(super) fn first(policy: Policy) -> String {
    let (default, rest) = match policy {
        Policy::None => ("drop", REJECT.to_owned()),
        Policy::Internal => ("drop", format!("oifname \"{INTERNAL_INTERFACE}\" accept; {REJECT}")),
        Policy::Open => {
            ("accept", format!("ip daddr {{ {BLOCKED_V4} }} {REJECT}; ip6 daddr {{ {BLOCKED_V6} }} {REJECT}"))
        }
    };
    format!(
        "table inet sandbox {{ chain output {{ type filter hook output priority filter; policy {default}; \
         oifname \"lo\" accept; ct state established,related accept; {rest}; }}; }}"
    )
}

/// The same in place of earlier rules, as one change. The kernel takes twice as long for it.
pub(super) fn next(policy: Policy) -> String {
    // There is a table to delete, even if there was none.
    format!("table inet sandbox; delete table inet sandbox; {}", first(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_networks_send_by_default() {
        assert!(first(Policy::Open).contains("policy accept"));
        for policy in [Policy::None, Policy::Internal] {
            assert!(first(policy).contains("policy drop"), "{policy:?}");
        }
        assert!(first(Policy::Internal).contains("oifname \"internal\" accept"));
    }

    #[test]
    fn earlier_rules_are_replaced() {
        assert!(next(Policy::Open).contains("delete table inet sandbox; table inet sandbox { chain output"));
    }

    #[test]
    fn metadata_of_clouds_is_blocked() {
        for address in ["169.254.0.0/16", "100.100.100.200", "fd00:ec2::254", "fe80::/10"] {
            assert!(first(Policy::Open).contains(address), "{address}");
        }
    }
}
