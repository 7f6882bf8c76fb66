//! Which images a pool allows: names of images as Docker reads them, and the entries that they are compared with.

use super::template::PATH_BYTES_MAX;
use std::fmt;

/// Most entries of an image policy.
pub const IMAGES_ALLOWED_MAX: usize = 32;
/// Longest image policy, in bytes over all entries: every pool of a fleet is in one reply.
pub const IMAGES_ALLOWED_BYTES_MAX: usize = 2_048;
/// Longest tag of an image, in bytes.
const TAG_BYTES_MAX: usize = 128;
/// Digits of a SHA-256 digest.
const DIGEST_DIGITS: usize = 64;
/// Most digits of a port.
const PORT_DIGITS_MAX: usize = 5;
/// The registry of names without one, and its other name.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_INDEX: &str = "index.docker.io";
/// Where Docker Hub has images whose names are one word.
const LIBRARY: &str = "library";
/// The tag of names without one.
const LATEST: &str = "latest";

/// The name of an image in a registry, with everything that Docker adds to a short one.
///
/// Docker Hub is [`DOCKER_HUB`], one word is in its [`LIBRARY`], and the tag is [`LATEST`]. A tag beside a digest is left
/// out, because the digest decides. Upper-case registries, IPv6 addresses and other digests than SHA-256 are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// Registry and path.
    repository: String,
    version: ImageVersion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ImageVersion {
    Tag(String),
    /// With its algorithm.
    Digest(String),
}

/// An entry of an image policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedImages {
    /// Every image of a registry, or below a path of one.
    Below(String),
    /// The image with a digest.
    Exactly(ImageReference),
}

/// Which images the templates of a pool may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePolicy {
    /// One of these must allow the image; every image is allowed if there are none.
    pub allowed: Vec<AllowedImages>,
    /// Whether the image must have a digest.
    pub is_digest_required: bool,
}

// === impl ImageReference ===

impl ImageReference {
    /// Reads the name of an image.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        if name.len() > PATH_BYTES_MAX {
            return Err("is too long");
        }
        let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err("must have a digest of the form `sha256:` and 64 digits in lower case");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if names_registry(first) => (parse_registry(first)?, path),
            _ => (DOCKER_HUB, name),
        };
        let (path, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("has a tag that no image can have");
        }
        if !path.split('/').all(is_component) {
            return Err(
                "must have a path of lower-case letters and digits, separated by `.`, `_`, `-` or `/`",
            );
        }
        let is_official = registry == DOCKER_HUB && !path.contains('/');
        let path = if is_official { format!("{LIBRARY}/{path}") } else { path.to_owned() };
        let version = digest.map_or_else(
            || ImageVersion::Tag(tag.unwrap_or(LATEST).to_owned()),
            |digest| ImageVersion::Digest(digest.to_owned()),
        );
        Ok(Self { repository: format!("{registry}/{path}"), version })
    }

    /// Whether it says exactly which image it is; a tag can be moved.
    #[must_use]
    pub const fn has_digest(&self) -> bool {
        matches!(self.version, ImageVersion::Digest(_))
    }
}

impl fmt::Display for ImageReference {
    /// The whole name, which reads as the same reference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            ImageVersion::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            ImageVersion::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

// === impl AllowedImages ===

impl AllowedImages {
    /// Reads an entry: a registry, a registry with a path, or a whole name with a digest. It names its registry, so that
    /// one word is neither taken for a host nor for a path.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn parse(entry: &str) -> Result<Self, &'static str> {
        if entry.len() > PATH_BYTES_MAX {
            return Err("is too long");
        }
        let (first, path) = entry.split_once('/').map_or((entry, None), |(first, path)| (first, Some(path)));
        if !names_registry(first) {
            return Err("must begin with a registry, such as `docker.io/library` or `registry.example.com`");
        }
        if entry.contains('@') && path.is_some() {
            return ImageReference::parse(entry).map(Self::Exactly);
        }
        let registry = parse_registry(first)?;
        match path {
            None => Ok(Self::Below(registry.to_owned())),
            Some(path) if path.split('/').all(is_component) => Ok(Self::Below(format!("{registry}/{path}"))),
            Some(_) => Err("must be a registry, a path in one, or a name with a digest; it has no tag"),
        }
    }

    fn allows(&self, image: &ImageReference) -> bool {
        match self {
            // Whole parts only: a registry whose name goes on is another one.
            Self::Below(path) => {
                let rest = image.repository.strip_prefix(path.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Exactly(allowed) => allowed == image,
        }
    }
}

impl fmt::Display for AllowedImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(path) => f.write_str(path),
            Self::Exactly(image) => image.fmt(f),
        }
    }
}

// === impl ImagePolicy ===

impl ImagePolicy {
    /// Whether it allows every image.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the number of entries and their length.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let bytes: usize = self.allowed.iter().map(|entry| entry.to_string().len()).sum();
        if self.allowed.len() <= IMAGES_ALLOWED_MAX && bytes <= IMAGES_ALLOWED_BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "must have at most {IMAGES_ALLOWED_MAX} entries and {IMAGES_ALLOWED_BYTES_MAX} bytes in all"
        ))
    }

    /// The whole name of an image that the policy allows. An engine that pulls that name gets what was checked.
    ///
    /// # Errors
    /// Why it does not allow the image, as the end of a sentence.
    pub fn admit(&self, name: &str) -> Result<ImageReference, String> {
        let image = ImageReference::parse(name)
            .map_err(|problem| format!("`{name}` {problem}: the pool restricts images"))?;
        if self.is_digest_required && !image.has_digest() {
            return Err(format!("`{image}` must have a digest (`@sha256:…`): the pool requires it"));
        }
        if self.allowed.is_empty() || self.allowed.iter().any(|entry| entry.allows(&image)) {
            return Ok(image);
        }
        Err(format!("`{image}` is none of the images that the pool allows"))
    }
}

/// Whether the first part of a name is a registry, as Docker decides it.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// The registry with that host and port. Docker Hub has two names.
fn parse_registry(registry: &str) -> Result<&str, &'static str> {
    let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(is_edge)
            && label.ends_with(is_edge)
            && label.chars().all(|c| is_edge(c) || c == '-')
    };
    let is_port = |port: &str| {
        (1..=PORT_DIGITS_MAX).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !host.split('.').all(is_label) || port.is_some_and(|port| !is_port(port)) {
        return Err("must have a registry that is a host in lower case, with or without a port");
    }
    Ok(if registry == DOCKER_INDEX { DOCKER_HUB } else { registry })
}

fn is_component(part: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    part.starts_with(is_edge) && part.ends_with(is_edge) && part.split(is_edge).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().all(|byte| is_word(byte) || b".-".contains(&byte))
        && tag.bytes().next().is_some_and(is_word)
}

fn is_digest(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == DIGEST_DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
