//! The operators' console: its files, what they may load, and what the script must not do. `make test-browser` tests
//! its behaviour in a browser.

use crate::support::{Rig, Step};
use ingress::console::FILES;
use std::collections::BTreeSet;

/// Code that would turn text into markup or script, store a token, or make it visible to others.
const FORBIDDEN: [&str; 16] = [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "setHTML",
    "document.write",
    "DOMParser",
    "createContextualFragment",
    "eval(",
    "Function(",
    "import(",
    "localStorage",
    "sessionStorage",
    "indexedDB",
    "document.cookie",
    "://",
    ".style",
];

#[tokio::test(start_paused = true)]
async fn console_is_served_with_a_self_only_content_policy() {
    let rig = Rig::new([Step::Hang]);
    let mut paths = vec![("/console".to_owned(), "text/html; charset=utf-8")];
    for file in FILES {
        let kind = match file.name.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        paths.push((format!("/console/{}", file.name), kind));
    }
    for (path, kind) in paths {
        let answer = rig.ask("GET", &path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.headers.get_all("content-security-policy").iter().count(), 1);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(policy.contains("require-trusted-types-for 'script'; trusted-types 'none'"), "{policy}");
        for word in ["unsafe", "http", "data:", "*"] {
            assert!(!policy.contains(word), "{policy}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn referenced_files_exist_and_every_file_is_referenced() {
    let rig = Rig::new([Step::Hang]);
    let page = String::from_utf8(rig.ask("GET", "/console", &[]).await.body.to_vec()).unwrap();
    let texts = FILES.iter().map(|file| file.text).chain([page.as_str()]);
    let named: BTreeSet<_> = texts
        .flat_map(|text| text.split("\"/console/").skip(1))
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    let there: BTreeSet<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
    assert_eq!(named, there);
}

#[tokio::test(start_paused = true)]
async fn console_has_no_inline_script_and_stores_no_token() {
    let rig = Rig::new([Step::Hang]);
    let page = String::from_utf8(rig.ask("GET", "/console", &[]).await.body.to_vec()).unwrap();
    let in_markup = ["<style", "style=", "<script>", "javascript:", "://", " action="];
    for word in in_markup.into_iter().chain([" onclick", " onload", " onerror", " onsubmit", " onfocus"]) {
        assert!(!page.contains(word), "{word}");
    }
    for file in FILES.iter().filter(|file| file.name.ends_with(".js")) {
        for word in FORBIDDEN {
            assert!(!file.text.contains(word), "{}: {word}", file.name);
        }
        let lines = file.text.lines().count();
        assert!(lines <= 400, "{}: {lines} lines", file.name);
    }
}
