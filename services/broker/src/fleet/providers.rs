//! Providers beside the first one: a file with a section for each.

use csp::CspConfig;
use domain::ProviderName;
use runtime::settings::{Mistakes, Settings, read_file};
use runtime::throttle::ThrottleRules;
use std::collections::BTreeMap;

/// The settings of one further provider.
#[derive(Clone, Debug)]
pub(super) struct Further {
    /// None for a role that does not call it: such a role needs no token.
    pub(super) csp: Option<CspConfig>,
    pub(super) throttle: ThrottleRules,
}

/// Reads `PROVIDERS_FILE`. A section has the settings of the first provider and of its throttle, by the names of their
/// variables, so that each of them is defined once. Without `calls` only names and throttles are read.
pub(super) fn read_further(settings: &mut Settings<'_>, calls: bool) -> BTreeMap<ProviderName, Further> {
    let file = settings.optional(
        "PROVIDERS_FILE",
        "file with further providers, as TOML: a section for each, with the variables of the first one (`CSP_…`, `NIOSXAAS_…`, `DELETIONS_PER_MINUTE…`, `BREAKER_…`) as its keys (docs/pools.md)",
    );
    let Some(file) = file else { return BTreeMap::new() };
    match read_file(&file).and_then(|text| parse(&text, calls)) {
        Ok(further) => further,
        Err(problem) => {
            settings.mistake("PROVIDERS_FILE", &format!("cannot be used: {problem}"));
            BTreeMap::new()
        }
    }
}

fn parse(text: &str, calls: bool) -> Result<BTreeMap<ProviderName, Further>, String> {
    let sections: BTreeMap<String, toml::Table> =
        toml::from_str(text).map_err(|error: toml::de::Error| {
            // The message of the parser would show the text, which may hold a token.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {} is no TOML of sections with settings", before.matches('\n').count() + 1)
        })?;
    let mut further = BTreeMap::new();
    for (name, section) in sections {
        let name = ProviderName::parse(&name).map_err(|problem| format!("a provider's name {problem}"))?;
        if name.is_csp() || name == ProviderName::nodes() {
            return Err(format!("{name} is the name of a provider that each fleet has; choose another name"));
        }
        let one = parse_section(section, calls).map_err(|mistakes| format!("[{name}] has {mistakes}"))?;
        further.insert(name, one);
    }
    Ok(further)
}

fn parse_section(section: toml::Table, calls: bool) -> Result<Further, Mistakes> {
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in section {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(is_on) => is_on.to_string(),
            _ => {
                return Err(Mistakes(vec![format!("{key} must be a string, a whole number, true or false")]));
            }
        };
        env.insert(key, text);
    }
    let mut settings = Settings::new(&env);
    let further = Further {
        csp: calls.then(|| CspConfig::read(&mut settings)),
        throttle: ThrottleRules::read(&mut settings),
    };
    let mut all = Settings::new(&env);
    let _ = (CspConfig::read(&mut all), ThrottleRules::read(&mut all));
    let known: Vec<&str> = all.variables().iter().map(|variable| variable.name).collect();
    for key in env.keys().filter(|key| !known.contains(&key.as_str())) {
        settings.mistake(key, "is no setting of a provider");
    }
    settings.finish(further)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_the_settings_of_the_first_provider() {
        let further = parse(
            "[csp-eu]\nCSP_BASE_URL = \"http://127.0.0.1:1/v2\"\nCSP_API_TOKEN = \"t\"\nDELETIONS_PER_MINUTE = 7\n",
            true,
        )
        .unwrap();
        let one = &further[&ProviderName::parse("csp-eu").unwrap()];
        assert_eq!(one.csp.as_ref().unwrap().base_url, "http://127.0.0.1:1/v2");
        assert_eq!(one.throttle.per_minute_max, 7);
        assert_eq!(one.throttle.open_max, ThrottleRules::default().open_max);
        let without_calls = parse("[csp-eu]\nCSP_API_TOKEN_FILE = \"/absent\"\n", false).unwrap();
        assert!(without_calls.values().all(|one| one.csp.is_none()), "such a role needs no token");
    }

    #[test]
    fn mistakes_name_section_and_setting_but_no_value() {
        for (bad, expected) in [
            ("[csp]\n", "choose another name"),
            ("[a]\n", "[a] has 2 settings to fix:\n  CSP_BASE_URL is required"),
            (
                "[a]\nCSP_BASE_URL = \"http://h/v2\"\nCSP_API_TOKEN = \"t\"\nPOOLS = \"x\"\n",
                "POOLS is no setting",
            ),
            ("[a]\nCSP_API_TOKEN = secret-token", "line 2 is no TOML"),
            ("CSP_API_TOKEN = \"secret-token\"", "line 1 is no TOML"),
        ] {
            let problem = parse(bad, true).unwrap_err();
            assert!(problem.contains(expected), "{bad:?}: {problem}");
            assert!(!problem.contains("secret-token"), "{problem}");
        }
    }
}
