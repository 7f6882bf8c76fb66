//! The requests about templates.

use super::examples;
use super::verbs::{Exchange, operator};
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateRequest, TemplateVersionsReply,
    TemplateVersionsRequest, TemplateView, TemplatesReply, TemplatesRequest,
};

pub(super) fn list() -> Exchange {
    operator::<TemplatesRequest, TemplatesReply>("list templates, page by page")
        .shown(&[examples::ASK_TEMPLATES], &[examples::TEMPLATES])
}

pub(super) fn show() -> Exchange {
    operator::<TemplateRequest, TemplateView>("show one of them")
        .shown(&[examples::ASK_TEMPLATE], &[examples::TEMPLATE])
}

pub(super) fn put() -> Exchange {
    operator::<PutTemplateRequest, TemplateView>("write a version of a template")
        .shown(&[examples::PUT_TEMPLATE], &[examples::TEMPLATE])
}

pub(super) fn remove() -> Exchange {
    operator::<RemoveTemplateRequest, TemplateView>("remove an unused template")
        .shown(&[examples::REMOVE_TEMPLATE], &[examples::REMOVED_TEMPLATE])
}

pub(super) fn versions() -> Exchange {
    operator::<TemplateVersionsRequest, TemplateVersionsReply>(
        "list the versions of a template, page by page",
    )
    .shown(&[examples::ASK_VERSIONS], &[examples::VERSIONS])
}
