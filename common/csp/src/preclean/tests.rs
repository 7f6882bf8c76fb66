use super::*;
use std::collections::BTreeMap;

fn read(pairs: &[(&str, &str)]) -> (PreCleanConfig, Vec<String>) {
    let env: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut settings = Settings::new(&env);
    let config = PreCleanConfig::read(&mut settings, "http://127.0.0.1:8090/v2");
    let mistakes = settings.finish(()).err().map(|mistakes| mistakes.0).unwrap_or_default();
    (config, mistakes)
}

#[test]
fn pre_clean_is_disabled_and_in_shadow_mode_by_default() {
    let (config, mistakes) = read(&[]);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert!(!config.enabled && config.shadow);
    assert_eq!(config.url().unwrap(), None);
    assert_eq!(config.service_name, "Instrqt-SaaS");
}

#[test]
fn credentials_are_required_when_enabled() {
    let (_, mistakes) = read(&[("NIOSXAAS_ENABLED", "true"), ("NIOSXAAS_BASE_URL", "nowhere")]);
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
}

#[test]
fn base_url_defaults_to_the_csp_host() {
    let on = [("NIOSXAAS_ENABLED", "true"), ("NIOSXAAS_EMAIL", "a@b"), ("NIOSXAAS_PASSWORD", "s3cr3t")];
    let (config, mistakes) = read(&on);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!(config.url().unwrap().unwrap().as_str(), "http://127.0.0.1:8090/");
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn asterisk_selects_every_service() {
    let (config, _) = read(&[("NIOSXAAS_SERVICE_NAME", "*")]);
    assert_eq!(config.service_name, "");
    let (config, _) = read(&[("NIOSXAAS_SERVICE_NAME", " ")]);
    assert_eq!(config.service_name, DEFAULT_SERVICE_NAME);
}

#[test]
fn only_an_unambiguous_response_is_an_empty_list() {
    assert_eq!(results(&json!({})).unwrap().len(), 0);
    assert_eq!(results(&json!({"page": {"offset": 0}})).unwrap().len(), 0);
    assert_eq!(results(&json!({"results": [1, 2]})).unwrap().len(), 2);
    for bad in [json!({"message": "maintenance"}), json!({"results": null}), json!([]), json!("x")] {
        assert!(results(&bad).is_err(), "{bad}");
    }
}
