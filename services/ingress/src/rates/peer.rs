//! Whose request it is, by address. What a header says counts only if a proxy of ours said it.

use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use axum::http::HeaderMap;
use ipnet::{IpNet, Ipv6Net};
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection; every request that came over one has it as its `ConnectInfo`.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Proxies whose word about the address in front of them is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

const FORWARDED_FOR: &str = "x-forwarded-for";
/// Hops that are looked at; a longer chain is forged.
const HOPS_MAX: usize = 16;
/// A home or a server has a /64 at least, so its addresses count as one.
const IPV6_GROUP_BITS: u8 = 64;

// === impl TrustedProxies ===

impl TrustedProxies {
    /// Reads a list of addresses and networks.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(network).collect::<Option<_>>().map(Self).ok_or_else(|| {
            "must be addresses or networks as 10.0.0.0/8 or fd00::/8, separated by commas".to_owned()
        })
    }

    /// Whether a proxy of ours is there.
    pub(crate) fn hold(&self, address: IpAddr) -> bool {
        let address = plain(address);
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whose request this is: the last address on its way that is no proxy of ours. None if it came over no
    /// connection.
    pub(crate) fn origin(&self, request: &Request) -> Option<IpAddr> {
        let ConnectInfo(Peer(peer)) = request.extensions().get::<ConnectInfo<Peer>>()?;
        Some(self.behind(plain(peer.ip()), request.headers()))
    }

    fn behind(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut origin = peer;
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        // A proxy appends, so the end is nearest to us; what stands before an unknown hop may be made up.
        let hops = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for hop in hops.take(HOPS_MAX) {
            if !self.hold(origin) {
                break;
            }
            match address_of(hop.trim()) {
                Some(address) => origin = address,
                None => break,
            }
        }
        origin
    }
}

/// A network, or one address. An IPv4 network is written as such: addresses are compared in that form.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().ok().or_else(|| text.parse().ok().map(|address| plain(address).into()))?;
    let IpNet::V6(mapped) = network else { return Some(network) };
    mapped.addr().to_ipv4_mapped().is_none().then_some(network)
}

/// What counts as one caller.
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match plain(address) {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Net::new(address, IPV6_GROUP_BITS).map_or(address, |group| group.network()))
        }
        address => address,
    }
}

/// An IPv4 address as such, also where a socket of both kinds shows it as an IPv6 one.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// An address as proxies write it: bare, or with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = || text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare().or_else(with_port).or_else(in_brackets).map(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn origin(trusted: &str, peer: &str, forwarded: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let trusted = TrustedProxies::parse(trusted).unwrap();
        trusted.behind(plain(peer.parse().unwrap()), &headers).to_string()
    }

    #[test]
    fn forwarded_for_is_trusted_only_from_trusted_proxies() {
        assert_eq!(origin("", "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(origin("10.0.0.0/8", "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(origin("10.0.0.0/8", "10.1.2.3", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(origin("10.0.0.0/8", "::ffff:10.1.2.3", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(origin("fd00::/8", "fd00::1", &["2001:db8::7"]), "2001:db8::7");
    }

    #[test]
    fn hops_before_an_untrusted_hop_are_ignored() {
        assert_eq!(origin("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]), "1.1.1.1");
        assert_eq!(origin("10.0.0.0/8", "10.0.0.1", &["6.6.6.6", "1.1.1.1"]), "1.1.1.1");
        assert_eq!(origin("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, nonsense, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(origin("10.0.0.0/8", "10.0.0.1", &[""]), "10.0.0.1");
        assert_eq!(origin("10.0.0.0/8", "10.0.0.1", &["10.0.0.9"]), "10.0.0.9");
    }

    #[test]
    fn port_is_stripped_from_the_address() {
        for written in ["1.1.1.1:80", "1.1.1.1"] {
            assert_eq!(address_of(written).unwrap().to_string(), "1.1.1.1");
        }
        for written in ["[2001:db8::7]:80", "[2001:db8::7]", "2001:db8::7"] {
            assert_eq!(address_of(written).unwrap().to_string(), "2001:db8::7");
        }
        assert_eq!(address_of("unknown"), None);
    }

    #[test]
    fn network_contains_addresses_with_its_prefix() {
        let holds = |network: &str, address: &str| {
            TrustedProxies::parse(network).unwrap().hold(address.parse().unwrap())
        };
        assert!(holds("10.1.0.0/16", "10.1.255.1") && !holds("10.1.0.0/16", "10.2.0.1"));
        assert!(holds("10.1.2.3", "10.1.2.3") && !holds("10.1.2.3", "10.1.2.4"));
        assert!(holds("0.0.0.0/0", "255.0.0.1") && !holds("0.0.0.0/0", "::1"));
        assert!(
            holds("::/0", "2001:db8::1")
                && holds("2001:db8::/32", "2001:db8:1::")
                && !holds("fd00::/8", "fe80::1")
        );
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/x", "/8"] {
            assert!(TrustedProxies::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_addresses_are_grouped_by_network() {
        let group = |text: &str| group(text.parse().unwrap()).to_string();
        assert_eq!(group("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(group("2001:db8:1:2::"), group("2001:db8:1:2:ffff::1"));
        assert_eq!((group("1.2.3.4").as_str(), group("::ffff:1.2.3.4").as_str()), ("1.2.3.4", "1.2.3.4"));
    }
}
