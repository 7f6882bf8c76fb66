//! Templates as operators see and change them. The same settings are in files, the HTTP API and on NATS.

use domain::{Template, TemplateHead};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod settings;

pub use settings::{ReadinessSettings, TemplateSettings};

/// Which page of the templates: `templates`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplatesRequest {
    /// The cursor of the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Templates of a page, 1 to 100; 50 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which template: `template`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateRequest {
    /// Its id.
    pub template: String,
    /// A version, also of a removed template; the current one if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Which page of the versions of a template: `template-versions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateVersionsRequest {
    /// Its id.
    pub template: String,
    /// The cursor of the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Versions of a page, 1 to 100; 50 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Makes a template, or a further version of it: `put-template`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutTemplateRequest {
    /// Its id.
    pub template: String,
    /// All its settings.
    pub settings: TemplateSettings,
    /// The version that it must have, 0 for a new template; any if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Who asks; `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Removes a template: `remove-template`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveTemplateRequest {
    /// Its id.
    pub template: String,
    /// The version that it must have; any if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Who asks, for the log; `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// One version of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Its id.
    pub template: String,
    /// The version that is shown.
    pub version: u64,
    /// The current version, which is also the number of versions.
    pub current_version: u64,
    /// What this version says, with every default.
    pub settings: TemplateSettings,
    /// When this version was written, Unix seconds.
    pub created_at: u64,
    /// Who wrote it.
    pub by: String,
    /// When the template was removed, Unix seconds; absent while it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<u64>,
}

/// A template in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateEntry {
    /// Its id.
    pub template: String,
    /// The current version, which is also the number of versions.
    pub version: u64,
    /// When the first version was written, Unix seconds.
    pub created_at: u64,
    /// When the current version was written, Unix seconds.
    pub updated_at: u64,
}

/// A page of templates: the reply to `templates`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplatesReply {
    /// The templates, by id.
    pub templates: Vec<TemplateEntry>,
    /// The cursor of the next page; null on the last one.
    pub cursor: Option<String>,
}

/// A version in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateVersionEntry {
    /// Its number.
    pub version: u64,
    /// When it was written, Unix seconds.
    pub created_at: u64,
    /// Who wrote it.
    pub by: String,
}

/// A page of the versions of a template: the reply to `template-versions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateVersionsReply {
    /// The template.
    pub template: String,
    /// Its versions, the newest first.
    pub versions: Vec<TemplateVersionEntry>,
    /// The cursor of the next page; null on the last one.
    pub cursor: Option<String>,
}

// === impl TemplateView ===

impl TemplateView {
    /// A version of the template with that head.
    #[must_use]
    pub fn of(head: &TemplateHead, template: &Template) -> Self {
        let Template { id, version, created_at, by, spec } = template;
        Self {
            template: id.to_string(),
            version: *version,
            current_version: head.version,
            settings: TemplateSettings::of(spec),
            created_at: created_at.get(),
            by: by.to_string(),
            removed_at: head.removed_at.map(domain::UnixSeconds::get),
        }
    }
}

// === impl TemplateEntry ===

impl TemplateEntry {
    /// The entry of a template.
    #[must_use]
    pub fn of(head: &TemplateHead) -> Self {
        let TemplateHead { id, version, created_at, updated_at, removed_at: _ } = head;
        Self {
            template: id.to_string(),
            version: *version,
            created_at: created_at.get(),
            updated_at: updated_at.get(),
        }
    }
}

// === impl TemplateVersionEntry ===

impl TemplateVersionEntry {
    /// The entry of a version.
    #[must_use]
    pub fn of(template: &Template) -> Self {
        let Template { id: _, version, created_at, by, spec: _ } = template;
        Self { version: *version, created_at: created_at.get(), by: by.to_string() }
    }
}
