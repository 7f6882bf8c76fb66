//! `broker templates`: shows and changes the templates of a fleet from a shell, over NATS.

use crate::deletions::client::Client;
use crate::output::{Format, Shown, Watch, columns, moment};
use anyhow::Context as _;
use clap::Subcommand;
use contract::Verb;
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateEntry, TemplateRequest, TemplateSettings,
    TemplateVersionEntry, TemplateVersionsReply, TemplateVersionsRequest, TemplateView, TemplatesReply,
    TemplatesRequest,
};
use domain::TemplateId;
use runtime::settings::{Env, read_file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The actor if the command names none.
const BY: &str = "broker-cli";
/// Entries of a page; the commands read all pages.
const PAGE_LIMIT: u32 = contract::queue::PAGE_LIMIT_MAX;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Templates,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Templates {
    /// List every template with its current version.
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Print one template.
    Show {
        /// The template.
        #[arg(value_parser = TemplateId::parse)]
        template: TemplateId,
        /// A version, also of a deleted template; the current one by default.
        #[arg(long)]
        version: Option<u64>,
    },
    /// Create every template of a file (TOML, or JSON with the ending `.json`: the settings of each by its id), or write a
    /// further version of it. Templates that are not in the file, or say the same, stay as they are.
    Apply {
        /// The file.
        file: PathBuf,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// Delete a template that no pool names. Its versions can still be shown.
    Delete {
        /// The template.
        #[arg(value_parser = TemplateId::parse)]
        template: TemplateId,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// List the versions of a template, the newest first.
    Versions {
        /// The template.
        #[arg(value_parser = TemplateId::parse)]
        template: TemplateId,
    },
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting or the file is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let said = match self.command {
            Templates::List { watch } => watch.show(self.format, async || list(&client).await).await,
            command => command.say(&client).await.map(|shown| self.format.print(&shown)),
        };
        client.close().await;
        said
    }
}

// === impl Templates ===

impl Templates {
    async fn say(self, client: &Client) -> anyhow::Result<Shown> {
        Ok(match self {
            Self::List { .. } => list(client).await?,
            Self::Show { template, version } => {
                let request = TemplateRequest { template: template.to_string(), version };
                Shown::fields(&client.ask::<TemplateView>(Verb::Template, &request).await?)?
            }
            Self::Apply { file, by } => {
                let mut applied = Vec::new();
                for (template, settings) in read(&file)? {
                    let by = Some(by.clone());
                    let request =
                        PutTemplateRequest { template: template.to_string(), settings, version: None, by };
                    applied.push(client.ask::<TemplateView>(Verb::PutTemplate, &request).await?);
                }
                let line = |TemplateView { template, version, .. }: &TemplateView| {
                    format!("{template}: version {version}\n")
                };
                let lines = applied.iter().map(line).collect::<String>();
                Shown::of(&applied, lines)?
            }
            Self::Delete { template, by } => {
                let (template, by) = (template.to_string(), Some(by));
                let request = RemoveTemplateRequest { template, version: None, by };
                let view: TemplateView = client.ask(Verb::RemoveTemplate, &request).await?;
                Shown::of(&view, format!("{}: deleted", view.template))?
            }
            Self::Versions { template } => versions(client, &template).await?,
        })
    }
}

async fn list(client: &Client) -> anyhow::Result<Shown> {
    let mut all = TemplatesReply::default();
    loop {
        let request = TemplatesRequest { cursor: all.cursor.take(), limit: Some(PAGE_LIMIT) };
        let page: TemplatesReply = client.ask(Verb::Templates, &request).await?;
        all.templates.extend(page.templates);
        all.cursor = page.cursor;
        if all.cursor.is_none() {
            return Ok(Shown::of(&all, table(&all))?);
        }
    }
}

async fn versions(client: &Client, template: &TemplateId) -> anyhow::Result<Shown> {
    let mut all =
        TemplateVersionsReply { template: template.to_string(), ..TemplateVersionsReply::default() };
    loop {
        let (template, cursor) = (template.to_string(), all.cursor.take());
        let request = TemplateVersionsRequest { template, cursor, limit: Some(PAGE_LIMIT) };
        let page: TemplateVersionsReply = client.ask(Verb::TemplateVersions, &request).await?;
        all.versions.extend(page.versions);
        all.cursor = page.cursor;
        if all.cursor.is_none() {
            break;
        }
    }
    let row = |entry: &TemplateVersionEntry| {
        [entry.version.to_string(), moment(Some(entry.created_at)), entry.by.clone()]
    };
    Ok(Shown::of(&all, columns(["VERSION", "CREATED", "BY"], all.versions.iter().map(row)))?)
}

/// The templates, one in a line.
fn table(reply: &TemplatesReply) -> String {
    let row = |entry: &TemplateEntry| {
        let TemplateEntry { template, version, created_at, updated_at } = entry;
        [template.clone(), version.to_string(), moment(Some(*created_at)), moment(Some(*updated_at))]
    };
    columns(["TEMPLATE", "VERSION", "CREATED", "UPDATED"], reply.templates.iter().map(row))
}

/// The templates of a file, checked before any of them is sent.
fn read(file: &Path) -> anyhow::Result<BTreeMap<TemplateId, TemplateSettings>> {
    let text = read_file(file).map_err(anyhow::Error::msg);
    let is_json = file.extension().is_some_and(|ending| ending == "json");
    text.and_then(|text| parse(&text, is_json)).with_context(|| file.display().to_string())
}

fn parse(text: &str, is_json: bool) -> anyhow::Result<BTreeMap<TemplateId, TemplateSettings>> {
    let all: BTreeMap<String, TemplateSettings> =
        if is_json { serde_json::from_str(text)? } else { toml::from_str(text)? };
    anyhow::ensure!(!all.is_empty(), "it describes no template");
    let mut templates = BTreeMap::new();
    for (name, settings) in all {
        let id = TemplateId::parse(&name).with_context(|| format!("template {name:?}"))?;
        settings.spec().with_context(|| format!("template {id}"))?;
        templates.insert(id, settings);
    }
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_describe_the_same_templates() {
        let toml = "[python]\nimage = \"python-3.12\"\nports = [80]\nnetwork = \"open\"\n\n[python.readiness]\nkind = \"tcp\"\nport = 80\n\n[shell]\nimage = \"host\"\n";
        let json = r#"{"python":{"image":"python-3.12","ports":[80],"network":"open",
            "readiness":{"kind":"tcp","port":80}},"shell":{"image":"host"}}"#;
        let read = parse(toml, false).unwrap();
        assert_eq!(read.keys().map(TemplateId::as_str).collect::<Vec<_>>(), ["python", "shell"]);
        assert_eq!(parse(json, true).unwrap(), read);
    }

    #[test]
    fn mistake_in_a_file_names_template_and_field() {
        for (text, words) in [
            ("", "describes no template"),
            ("[\"a b\"]\nimage = \"host\"\n", "template \"a b\""),
            ("[a]\nimage = \"host\"\ncpu_milli = 1\n", "template a: cpu_milli must be"),
            ("[a]\nimage = \"host\"\ncpus = 1\n", "unknown field `cpus`"),
        ] {
            let problem = format!("{:#}", parse(text, false).unwrap_err());
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn templates_are_shown_in_aligned_columns() {
        let of = |template: &str, version| TemplateEntry {
            template: template.to_owned(),
            version,
            created_at: 1_763_600_000,
            updated_at: 1_763_683_200,
        };
        let text = table(&TemplatesReply { templates: vec![of("python", 12), of("r", 3)], cursor: None });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].find("2025"), lines[2].find("2025"), "{text}");
        assert!(lines[1].starts_with("python    12"), "{text}");
    }
}
