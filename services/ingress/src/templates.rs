//! Routes for templates: list, show, write and remove them.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateRequest, TemplateSettings, TemplateVersionsReply,
    TemplateVersionsRequest, TemplateView, TemplatesReply, TemplatesRequest,
};
use contract::{Action, Fault, Verb};
use domain::TemplateId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::deletions::operator;
use crate::error::{Failure, pass_on};
use crate::openapi::faults::{OfPutTemplate, OfTemplateOrder, ReadFaults, ReadOneFaults};
use crate::query::{Asked, NoQuery, Paged, json_object};
use crate::relay::Relay;
use crate::request_id::Facts;

/// A version of a template.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfVersion {
    version: Option<u64>,
}

/// A template that must be new.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTemplate {
    /// Its id: letters, digits, `-` and `_`.
    template: String,
    /// All its settings.
    settings: TemplateSettings,
}

type PathTemplate = Result<Path<String>, PathRejection>;

/// Lists templates, page by page.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::Templates).as_str()))),
    params(
        ("limit" = Option<u32>, Query, description = "templates of a page, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page")
    ),
    responses(
        (status = 200, description = "a page, by id; it may lag behind a change for a moment", body = TemplatesReply), ReadFaults)
)]
pub(crate) async fn list_templates(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    Asked(Paged { cursor, limit }): Asked<Paged>,
) -> Result<Response, Failure> {
    let reply = relay.send(Verb::Templates, &facts, None, &TemplatesRequest { cursor, limit }).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Creates a template.
#[utoipa::path(
    post, path = "/v1/templates", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::PutTemplate).as_str()))),
    params(("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")),
    request_body(content = NewTemplate,
        example = json!({"template": "python", "settings": {"image": "python-3.12", "memory_mb": 512}})),
    responses(
        (status = 201, description = "its first version; also after a repeat of the same request", body = TemplateView), OfPutTemplate)
)]
pub(crate) async fn create_template(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    _: NoQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let by = Some(operator(&headers, &facts)?.to_string());
    let NewTemplate { template, settings } = json_object(&body)?;
    let request = PutTemplateRequest { template, settings, version: Some(0), by };
    let reply = relay.send(Verb::PutTemplate, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::CREATED))
}

/// Shows a template.
#[utoipa::path(
    get, path = "/v1/templates/{id}", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::Template).as_str()))),
    params(
        ("id" = String, Path, description = "the template"),
        ("version" = Option<u64>, Query, description = "this version, also of a removed template; the current one without it")
    ),
    responses(
        (status = 200, description = "the version, with every default", body = TemplateView), ReadOneFaults)
)]
pub(crate) async fn show_template(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathTemplate,
    Asked(OfVersion { version }): Asked<OfVersion>,
) -> Result<Response, Failure> {
    let request = TemplateRequest { template: template_in_path(path)?.to_string(), version };
    let reply = relay.send(Verb::Template, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Writes a version of a template, which becomes the current one.
#[utoipa::path(
    put, path = "/v1/templates/{id}", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::PutTemplate).as_str()))),
    params(
        ("id" = String, Path, description = "the template"),
        ("version" = Option<u64>, Query, description = "the version that the template must have, 0 if it must be new"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    request_body(content = TemplateSettings, example = json!({"image": "python-3.12", "memory_mb": 1024})),
    responses(
        (status = 200, description = "the new version; the current one if it says the same", body = TemplateView), OfPutTemplate)
)]
pub(crate) async fn put_template(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathTemplate,
    Asked(OfVersion { version }): Asked<OfVersion>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let template = template_in_path(path)?.to_string();
    let by = Some(operator(&headers, &facts)?.to_string());
    let request = PutTemplateRequest { template, settings: json_object(&body)?, version, by };
    let reply = relay.send(Verb::PutTemplate, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Removes a template that no pool names.
#[utoipa::path(
    delete, path = "/v1/templates/{id}", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::RemoveTemplate).as_str()))),
    params(
        ("id" = String, Path, description = "the template"),
        ("version" = Option<u64>, Query, description = "the version that the template must have"),
        ("X-Operator" = Option<String>, Header, description = "the operator, if several share the token")
    ),
    responses(
        (status = 200, description = "it cannot be used any more; its versions are kept", body = TemplateView), OfTemplateOrder)
)]
pub(crate) async fn remove_template(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathTemplate,
    Asked(OfVersion { version }): Asked<OfVersion>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let template = template_in_path(path)?.to_string();
    let by = Some(operator(&headers, &facts)?.to_string());
    let request = RemoveTemplateRequest { template, version, by };
    let reply = relay.send(Verb::RemoveTemplate, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

/// Lists the versions of a template, page by page.
#[utoipa::path(
    get, path = "/v1/templates/{id}/versions", tag = "templates", extensions(("x-action" = json!(Action::Ask(Verb::TemplateVersions).as_str()))),
    params(
        ("id" = String, Path, description = "the template"),
        ("limit" = Option<u32>, Query, description = "versions of a page, 1 to 100; 50 without it"),
        ("cursor" = Option<String>, Query, description = "the cursor of the last page")
    ),
    responses(
        (status = 200, description = "a page, the newest first; also of a removed template", body = TemplateVersionsReply),
        ReadOneFaults)
)]
pub(crate) async fn list_versions(
    State(relay): State<Relay>,
    Extension(facts): Extension<Facts>,
    path: PathTemplate,
    Asked(Paged { cursor, limit }): Asked<Paged>,
) -> Result<Response, Failure> {
    let request = TemplateVersionsRequest { template: template_in_path(path)?.to_string(), cursor, limit };
    let reply = relay.send(Verb::TemplateVersions, &facts, None, &request).await?;
    Ok(pass_on(reply, StatusCode::OK))
}

fn template_in_path(path: PathTemplate) -> Result<TemplateId, Fault> {
    let Path(id) = path.map_err(|rejection| Fault::invalid("id", rejection.body_text()))?;
    TemplateId::parse(&id).map_err(|problem| Fault::invalid("id", problem))
}
