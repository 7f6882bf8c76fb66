//! Calls about templates.

use super::{Client, ClientError};
use contract::Verb;
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateRequest, TemplateSettings, TemplateVersionsReply,
    TemplateVersionsRequest, TemplateView, TemplatesReply, TemplatesRequest,
};
use domain::TemplateId;

impl Client {
    /// A page of the templates, from the cursor of the last page on.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn templates(&self, cursor: Option<String>) -> Result<TemplatesReply, ClientError> {
        self.ask(Verb::Templates, &TemplatesRequest { cursor, limit: None }).await
    }

    /// A version of a template; the current one without `version`.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn template(&self, id: &TemplateId, version: Option<u64>) -> Result<TemplateView, ClientError> {
        self.ask(Verb::Template, &TemplateRequest { template: id.to_string(), version }).await
    }

    /// Writes a version of a template. With a `version`, only if the template has that one (0: if it is new).
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn put_template(
        &self,
        id: &TemplateId,
        settings: TemplateSettings,
        version: Option<u64>,
    ) -> Result<TemplateView, ClientError> {
        let request = PutTemplateRequest { template: id.to_string(), settings, version, by: None };
        self.ask(Verb::PutTemplate, &request).await
    }

    /// Removes a template that no pool names. With a `version`, only if the template has that one.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn remove_template(
        &self,
        id: &TemplateId,
        version: Option<u64>,
    ) -> Result<TemplateView, ClientError> {
        let request = RemoveTemplateRequest { template: id.to_string(), version, by: None };
        self.ask(Verb::RemoveTemplate, &request).await
    }

    /// A page of the versions of a template, the newest first.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn template_versions(
        &self,
        id: &TemplateId,
        cursor: Option<String>,
    ) -> Result<TemplateVersionsReply, ClientError> {
        let request = TemplateVersionsRequest { template: id.to_string(), cursor, limit: None };
        self.ask(Verb::TemplateVersions, &request).await
    }
}
