//! The messages about templates in their JSON form of today, as `messages.rs`.

use crate::messages::{strict, wire};
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateEntry, TemplateRequest, TemplateSettings,
    TemplateVersionEntry, TemplateVersionsReply, TemplateVersionsRequest, TemplateView, TemplatesReply,
    TemplatesRequest,
};
use insta::assert_snapshot;

/// The settings of that JSON, which are valid.
fn settings(text: &str) -> TemplateSettings {
    let settings: TemplateSettings = serde_json::from_str(text).unwrap();
    settings.spec().unwrap();
    settings
}

const PROCESS: &str = r#"{"kind":"container","image":"python-3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true}"#;
const CONTAINER: &str = r#"{"kind":"container","image":"python:3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["curl","-f","localhost:8000"],"timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":true,"supervisor":true}"#;

#[test]
fn requests() {
    let (template, by) = ("python".to_owned(), Some("alice".to_owned()));
    let put = PutTemplateRequest {
        template: template.clone(),
        settings: settings(CONTAINER),
        version: Some(1),
        by: by.clone(),
    };
    assert_snapshot!(strict(&put), @r#"{"template":"python","settings":{"kind":"container","image":"python:3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"exec","command":["curl","-f","localhost:8000"],"timeout_seconds":30},"isolation":"container","runtime":"runsc","untrusted":true,"supervisor":true},"version":1,"by":"alice"}"#);
    let remove = RemoveTemplateRequest { template: template.clone(), version: Some(2), by };
    assert_snapshot!(strict(&remove), @r#"{"template":"python","version":2,"by":"alice"}"#);
    let show = TemplateRequest { template: template.clone(), version: Some(2) };
    assert_snapshot!(strict(&show), @r#"{"template":"python","version":2}"#);
    let list = TemplatesRequest { cursor: Some("MR9weXRob24f".to_owned()), limit: Some(50) };
    assert_snapshot!(strict(&list), @r#"{"cursor":"MR9weXRob24f","limit":50}"#);
    let versions = TemplateVersionsRequest { template, cursor: Some("MR8zHw".to_owned()), limit: Some(50) };
    assert_snapshot!(strict(&versions), @r#"{"template":"python","cursor":"MR8zHw","limit":50}"#);
}

#[test]
fn replies() {
    let (template, by) = ("python".to_owned(), "alice".to_owned());
    let view = TemplateView {
        template: template.clone(),
        version: 2,
        current_version: 2,
        settings: settings(PROCESS),
        created_at: 1_763_683_200,
        by: by.clone(),
        removed_at: None,
    };
    // Settings are read strictly, so a newer writer adds none to them that an older reader meets.
    assert_snapshot!(serde_json::to_string(&view).unwrap(), @r#"{"template":"python","version":2,"current_version":2,"settings":{"kind":"container","image":"python-3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true},"created_at":1763683200,"by":"alice"}"#);
    let removed = TemplateView { removed_at: Some(1_763_686_800), ..view };
    assert_snapshot!(serde_json::to_string(&removed).unwrap(), @r#"{"template":"python","version":2,"current_version":2,"settings":{"kind":"container","image":"python-3.12","command":["python3","-m","http.server","8000"],"cpu_milli":1000,"memory_mb":512,"tmpfs_mb":64,"workspace_mb":1024,"workspace":"/workspace","pids":128,"ports":[8000],"env":{"LANG":"C.UTF-8"},"user":1000,"network":"internal","readiness":{"kind":"http","port":8000,"path":"/","timeout_seconds":30},"isolation":"process","untrusted":false,"supervisor":true},"created_at":1763683200,"by":"alice","removed_at":1763686800}"#);
    let entry = TemplateEntry {
        template: template.clone(),
        version: 2,
        created_at: 1_763_600_000,
        updated_at: 1_763_683_200,
    };
    let list = TemplatesReply { templates: vec![entry], cursor: None };
    assert_snapshot!(wire(&list), @r#"{"templates":[{"template":"python","version":2,"created_at":1763600000,"updated_at":1763683200}],"cursor":null}"#);
    let of = |version, created_at| TemplateVersionEntry { version, created_at, by: by.clone() };
    let versions = vec![of(2, 1_763_683_200), of(1, 1_763_600_000)];
    let versions = TemplateVersionsReply { template, versions, cursor: None };
    assert_snapshot!(wire(&versions), @r#"{"template":"python","versions":[{"version":2,"created_at":1763683200,"by":"alice"},{"version":1,"created_at":1763600000,"by":"alice"}],"cursor":null}"#);
}
