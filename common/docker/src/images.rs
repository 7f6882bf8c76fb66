//! Images of the engine: which it has, and fetching those that it lacks.

use crate::Shared;
use crate::failure::status;
use crate::spec::LABELS;
use bollard::models::{ContainerConfig, CreateImageInfo, ImageConfig, ImageInspect, ProgressDetail};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder,
};
use domain::image_policy::ImageReference;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use ports::engine::{EngineError, ImageCommand, LocalImage, PullProgress};
use std::collections::HashMap;
use std::sync::Arc;

/// The tag of a name that has none.
const TAG_DEFAULT: &str = "latest";

/// The images that are being fetched.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<String, Arc<Pull>>>);

/// What a container is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundImage {
    /// With its tag or digest.
    pub(crate) name: String,
    pub(crate) command: ImageCommand,
    /// Folders for which the engine would make a place on its disk, without limit.
    pub(crate) volumes: Vec<String>,
}

/// One image that is being fetched, shared by concurrent creations.
#[derive(Debug, Default)]
struct Pull {
    turn: tokio::sync::Mutex<()>,
    /// What has arrived of each layer, and its size.
    layers: Mutex<HashMap<String, ProgressDetail>>,
}

/// Removes the entry of a pull that has ended, also if it was given up.
struct Ended<'a>(&'a Pulls, String, Arc<Pull>);

// === impl Shared ===

impl Shared {
    /// The image of that name, fetched if the engine lacks it.
    pub(crate) async fn image(&self, name: &str) -> Result<FoundImage, EngineError> {
        let name = full_name(name)?;
        let found = match self.local_image(&name).await? {
            Some(found) => found,
            None => self.fetch(&name).await?,
        };
        let volumes = found.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default();
        Ok(FoundImage { name, volumes, command: command(found) })
    }

    async fn local_image(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.client.get().await?.inspect_image(name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.client.failed(error)),
        }
    }

    async fn fetch(&self, name: &str) -> Result<ImageInspect, EngineError> {
        let pull = Arc::clone(self.pulls.0.lock().entry(name.to_owned()).or_default());
        let ended = Ended(&self.pulls, name.to_owned(), pull);
        let _turn = ended.2.turn.lock().await;
        // Another creation may have fetched it meanwhile.
        if let Some(found) = self.local_image(name).await? {
            return Ok(found);
        }
        let cannot =
            |reason: String| EngineError::failed(format!("the image `{name}` cannot be fetched: {reason}"));
        let began = self.clock.monotonic();
        let options = CreateImageOptionsBuilder::new().from_image(name).build();
        let engine = self.client.get().await?;
        let mut progress = engine.create_image(Some(options), None, None);
        while let Some(step) = progress.next().await {
            match step {
                Ok(CreateImageInfo { id: Some(layer), progress_detail: Some(detail), .. }) => {
                    ended.2.layers.lock().insert(layer, detail);
                }
                Ok(_) => {}
                Err(error) => {
                    return Err(match self.client.failed(error) {
                        // A name that no registry knows may be one that is not there yet.
                        EngineError::Gone => cannot("no registry has it".to_owned()),
                        EngineError::Failed { reason } | EngineError::Refused { reason } => cannot(reason),
                        other => other,
                    });
                }
            }
        }
        let took = self.clock.monotonic().saturating_sub(began);
        tracing::info!(image = name, duration_ms = took.as_millis(), "fetched the image {name}");
        let found = self.local_image(name).await?;
        found.ok_or_else(|| cannot("the engine does not have it afterwards".to_owned()))
    }

    /// What the engine has by name, and what it is fetching.
    pub(crate) async fn all_images(&self) -> Result<Vec<LocalImage>, EngineError> {
        let options = ListImagesOptionsBuilder::new().build();
        let listed = self.client.get().await?.list_images(Some(options)).await;
        let listed = listed.map_err(|error| self.client.failed(error))?;
        let of_name = |name, size: i64| LocalImage { name, bytes: size.unsigned_abs(), pull: None };
        let named = listed.into_iter().flat_map(|image| {
            let names = image.repo_tags.into_iter().chain(image.repo_digests);
            names.filter(|name| !name.contains("<none>")).map(move |name| of_name(name, image.size))
        });
        let mut found: Vec<_> = named.chain(self.pulls.all()).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Makes an image of a container, which has the image `origin`.
    pub(crate) async fn commit_container(
        &self,
        container: &str,
        origin: &str,
        name: &str,
    ) -> Result<(), EngineError> {
        let name = full_name(name)?;
        if name.contains('@') {
            return Err(EngineError::refused("an image that is made has a tag, not a digest"));
        }
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, TAG_DEFAULT));
        let options =
            CommitContainerOptionsBuilder::new().container(container).repo(repository).tag(tag).pause(true);
        let engine = self.client.get().await?;
        let origin = engine.inspect_image(origin).await.map_err(|error| self.client.failed(error))?;
        let config = of_committed(origin.config.unwrap_or_default());
        let made = engine.commit_container(options.build(), config);
        made.await.map(drop).map_err(|error| self.client.failed(error))
    }
}

// === impl Pulls ===

impl Pulls {
    fn all(&self) -> Vec<LocalImage> {
        let pulls = self.0.lock();
        let progress = |pull: &Pull| {
            let layers = pull.layers.lock();
            let sum = |of: fn(&ProgressDetail) -> Option<i64>| {
                layers.values().filter_map(of).map(i64::unsigned_abs).sum()
            };
            PullProgress { fetched_bytes: sum(|layer| layer.current), total_bytes: sum(|layer| layer.total) }
        };
        let image = |(name, pull): (&String, &Arc<Pull>)| {
            let pull = progress(pull);
            LocalImage { name: name.clone(), bytes: pull.total_bytes, pull: Some(pull) }
        };
        pulls.iter().map(image).collect()
    }
}

// === impl Ended ===

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        // The map itself and this call; further ones are added only under the lock.
        const LAST: usize = 2;
        let mut all = self.0.0.lock();
        if Arc::strong_count(&self.2) == LAST {
            all.remove(&self.1);
        }
    }
}

/// A name with a tag or digest. Without one, an engine would fetch every tag.
fn full_name(name: &str) -> Result<String, EngineError> {
    ImageReference::parse(name)
        .map_err(|problem| EngineError::refused(format!("the image `{name}` {problem}")))?;
    let last = name.rsplit('/').next().unwrap_or(name);
    Ok(if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:{TAG_DEFAULT}") })
}

fn command(image: ImageInspect) -> ImageCommand {
    let config = image.config.unwrap_or_default();
    let parts = config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten()).collect();
    let folder =
        config.working_dir.filter(|folder| folder.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    ImageCommand { parts, folder }
}

/// What an image that is made runs: the same as the original one. The engine would take the rest from the container, in which
/// the supervisor runs, and would take the containers of that image for sandboxes.
fn of_committed(origin: ImageConfig) -> ContainerConfig {
    let ImageConfig { entrypoint, cmd, working_dir, user, .. } = origin;
    ContainerConfig {
        entrypoint: Some(entrypoint.unwrap_or_default()),
        cmd,
        working_dir: Some(working_dir.filter(|folder| !folder.is_empty()).unwrap_or_else(|| "/".to_owned())),
        user,
        labels: Some(LABELS.map(|label| (label.to_owned(), String::new())).into()),
        ..ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_a_tag_unless_it_has_one() {
        for (name, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:alpine", "nginx:alpine"),
            ("localhost:5000/team/app", "localhost:5000/team/app:latest"),
        ] {
            assert_eq!(full_name(name).unwrap(), expected);
        }
        let exact = format!("app@sha256:{}", "0".repeat(64));
        assert_eq!(full_name(&exact).unwrap(), exact);
        for wrong in
            ["", "-x", "a b", "a?b", "a/../b", "a//b", "a/", "a%2e", "#", "app@sha256:0123", &"x".repeat(256)]
        {
            assert!(matches!(full_name(wrong), Err(EngineError::Refused { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_command_of_an_image_is_its_entry_point_and_its_arguments() {
        let words = |text: &str| Some(text.split(' ').map(str::to_owned).collect());
        let config =
            ImageConfig { entrypoint: words("/entry -x"), cmd: words("serve"), ..ImageConfig::default() };
        let image = ImageInspect { config: Some(config), ..ImageInspect::default() };
        let ImageCommand { parts, folder } = command(image);
        assert_eq!((parts.join(" "), folder.as_str()), ("/entry -x serve".to_owned(), "/"));
        assert_eq!(command(ImageInspect::default()).parts, Vec::<String>::new());
    }

    #[test]
    fn an_image_that_is_made_runs_what_its_original_runs() {
        let cmd = vec!["serve".to_owned()];
        let made = of_committed(ImageConfig { cmd: Some(cmd.clone()), ..ImageConfig::default() });
        assert_eq!((made.entrypoint, made.cmd), (Some(Vec::new()), Some(cmd)));
        assert_eq!(made.working_dir.as_deref(), Some("/"));
        assert!(made.labels.unwrap().values().all(String::is_empty));
    }

    #[test]
    fn progress_is_that_of_all_layers() {
        let pulls = Pulls::default();
        let pull = Arc::clone(pulls.0.lock().entry("a:1".to_owned()).or_default());
        for (layer, current, total) in [("x", 5, 10), ("y", 1, 20), ("x", 7, 10)] {
            let detail = ProgressDetail { current: Some(current), total: Some(total) };
            pull.layers.lock().insert(layer.to_owned(), detail);
        }
        let progress = PullProgress { fetched_bytes: 8, total_bytes: 30 };
        assert_eq!(pulls.all(), [LocalImage { name: "a:1".to_owned(), bytes: 30, pull: Some(progress) }]);
        drop(Ended(&pulls, "a:1".to_owned(), pull));
        assert_eq!(pulls.all(), []);
    }
}
