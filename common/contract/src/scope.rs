//! The scope of a request: the only sandboxes that it may concern.

use domain::PoolName;

/// What a request may concern. It travels in the header [`SCOPE`](crate::headers::SCOPE). A worker refuses a request whose
/// scope it does not understand, so a later build may add scopes that no older worker ignores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every pool; the header is absent.
    #[default]
    Every,
    /// Only these pools; at least one.
    Pools(Vec<PoolName>),
}

/// A header that restricts the request in a way that this build does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this worker does not understand the {0} of the request")]
pub struct NotUnderstood(&'static str);

/// Beginning of the one scope of this version.
const POOLS: &str = "v1 pools=";
/// Between two pools; no name contains it.
const SEPARATOR: &str = ",";

// === impl NotUnderstood ===

impl NotUnderstood {
    pub(crate) const PRINCIPAL: Self = Self("principal");
    pub(crate) const SCOPE: Self = Self("scope");
}

// === impl Scope ===

impl Scope {
    /// The scope of a caller that may use these pools; every pool if there are none.
    #[must_use]
    pub fn of(pools: &[PoolName]) -> Self {
        if pools.is_empty() { Self::Every } else { Self::Pools(pools.to_vec()) }
    }

    /// The pools; none if it is every pool.
    #[must_use]
    pub fn pools(&self) -> &[PoolName] {
        match self {
            Self::Every => &[],
            Self::Pools(pools) => pools,
        }
    }

    /// Whether the request may concern `pool`.
    #[must_use]
    pub fn admits(&self, pool: &PoolName) -> bool {
        *self == Self::Every || self.pools().contains(pool)
    }

    /// The value of the header; none if it is left out.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        let Self::Pools(pools) = self else { return None };
        let names: Vec<_> = pools.iter().map(PoolName::as_str).collect();
        Some(format!("{POOLS}{}", names.join(SEPARATOR)))
    }

    /// Reads the values of the header of one request.
    ///
    /// # Errors
    ///
    /// If there are several, or one that this build does not understand.
    pub fn read<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<Self, NotUnderstood> {
        let Some(value) = values.next() else { return Ok(Self::Every) };
        let pools =
            value.strip_prefix(POOLS).filter(|_| values.next().is_none()).ok_or(NotUnderstood::SCOPE)?;
        let pools =
            pools.split(SEPARATOR).map(|name| PoolName::parse(name).map_err(|_| NotUnderstood::SCOPE));
        Ok(Self::Pools(pools.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(names: &[&str]) -> Vec<PoolName> {
        names.iter().map(|name| PoolName::parse(name).unwrap()).collect()
    }

    #[test]
    fn scope_round_trips() {
        for names in [&[][..], &["dns"], &["dns", "main"]] {
            let scope = Scope::of(&pools(names));
            let header = scope.header();
            assert_eq!(header.is_none(), names.is_empty());
            assert_eq!(Scope::read(header.as_deref().into_iter()), Ok(scope));
        }
        assert_eq!(Scope::of(&pools(&["dns", "main"])).header().as_deref(), Some("v1 pools=dns,main"));
    }

    #[test]
    fn what_is_not_understood_is_no_scope() {
        for unknown in [
            "",
            " ",
            "*",
            "v1",
            "v1 pools=",
            "v1 pools=a,",
            "v1 pools=a b",
            "v1 labs=a",
            "v2 pools=a",
            "V1 pools=a",
        ] {
            assert_eq!(Scope::read([unknown].into_iter()), Err(NotUnderstood::SCOPE), "{unknown:?}");
        }
        assert_eq!(
            Scope::read(["v1 pools=a", "v1 pools=b"].into_iter()),
            Err(NotUnderstood::SCOPE),
            "which one holds?"
        );
    }
}
