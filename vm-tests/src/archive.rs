//! Debian's archive, read by an apt of our own: other suites than the host's, no root, nothing installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command::run;

/// Names the mirror where the host's own apt sources have none of Debian's.
const MIRROR_VARIABLE: &str = "PAIRFLIP_DEBIAN_MIRROR";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt with its own sources and lists below one directory.
#[derive(Debug)]
pub(crate) struct Archive {
    root: PathBuf,
}

/// One version of a package: its name, version and dependencies as apt shows them.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) version: String,
    pub(crate) depends: Vec<String>,
}

impl Archive {
    /// Fetches the package lists of `suites`.
    pub(crate) fn open(root: &Path, suites: &[impl AsRef<str>]) -> Result<Self> {
        let suites: Vec<&str> = suites.iter().map(AsRef::as_ref).collect();
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing; install the package debian-archive-keyring");
        }
        for dir in ["sources", "lists/partial", "archives/partial", "cache"] {
            fs::create_dir_all(root.join(dir)).with_context(|| format!("making {dir}"))?;
        }
        fs::write(root.join("status"), "")?;
        fs::write(
            root.join("sources/debian.sources"),
            format!(
                "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: amd64\nSigned-By: {KEYRING}\n",
                mirror()?,
                suites.join(" ")
            ),
        )?;
        let archive = Self { root: root.to_owned() };
        run(archive.apt("apt-get").args(["update", "-qq"])).context(
            "reading the package lists of Debian's archive; is the network up? What is cached needs none",
        )?;
        Ok(archive)
    }

    /// All versions of a package.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<Package>> {
        let text = run(self.apt("apt-cache").args(["show", package]))
            .with_context(|| format!("looking for {package} in Debian's archive"))?;
        Ok(parse_packages(&text))
    }

    /// Downloads a package, and its parts as far as it depends on them, and unpacks all into `target`.
    pub(crate) fn unpack(&self, package: &str, parts: &[String], target: &Path) -> Result<()> {
        let depends = self.versions(package)?.into_iter().flat_map(|found| found.depends);
        let mut wanted: Vec<String> = depends.filter(|name| parts.contains(name)).collect();
        wanted.push(package.to_owned());
        let downloads = target.join("downloads");
        fs::create_dir_all(&downloads)?;
        run(self.apt("apt-get").args(["download", "-qq"]).args(&wanted).current_dir(&downloads))
            .with_context(|| format!("downloading {}", wanted.join(", ")))?;
        for entry in fs::read_dir(&downloads)? {
            run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(target))?;
        }
        fs::remove_dir_all(&downloads).context("removing the downloaded packages")
    }

    /// Downloads packages with all that they depend on and unpacks everything into `target`, as on a machine that has nothing.
    pub(crate) fn unpack_with_dependencies(&self, packages: &[&str], target: &Path) -> Result<()> {
        let downloads = target.join("downloads");
        fs::create_dir_all(downloads.join("partial"))?;
        run(self
            .apt("apt-get")
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", downloads.display()))
            .args(["install", "-qq", "--yes", "--download-only", "--no-install-recommends"])
            .args(packages))
        .with_context(|| format!("downloading {}", packages.join(", ")))?;
        for entry in fs::read_dir(&downloads)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg").arg("-x").arg(path).arg(target))?;
            }
        }
        fs::remove_dir_all(&downloads).context("removing the downloaded packages")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = |path: &str| self.root.join(path).display().to_string();
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", dir("sources")),
            format!("Dir::State::lists={}", dir("lists")),
            format!("Dir::State::status={}", dir("status")),
            format!("Dir::Cache={}", dir("cache")),
            format!("Dir::Cache::archives={}", dir("archives")),
            "Acquire::Languages=none".to_owned(),
            "Acquire::GzipIndexes=true".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // A suite that could not be read would make an older kernel the newest.
            "APT::Update::Error-Mode=any".to_owned(),
            // Its own user could not write into our directories.
            "APT::Sandbox::User=root".to_owned(),
            // The caller holds a lock.
            "Debug::NoLocking=1".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The mirror that the host uses, so that a site's own is taken.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    // apt itself names its sources only once it has read them.
    let mut sources = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    sources.extend(parts.map(|entry| entry.path()));
    let texts = sources.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| debian_mirror(&text)).next().with_context(|| {
        format!("this host's apt has no mirror of Debian; name one: {MIRROR_VARIABLE}=URL, which ends with /debian")
    })
}

/// The first mirror of Debian in a file of apt's sources, in the style of one line or of several (sources.list(5)).
fn debian_mirror(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

fn parse_packages(text: &str) -> Vec<Package> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| {
                stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .map(str::to_owned)
            };
            let depends = field("Depends").unwrap_or_default();
            let name = |item: &str| item.split_whitespace().next().map(str::to_owned);
            Some(Package {
                version: field("Version")?,
                depends: depends.split(',').filter_map(name).collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_styles_of_sources() {
        let mirror = |text| debian_mirror(text);
        let expected = Some("http://mirror.example/debian".to_owned());
        assert_eq!(
            mirror("# http://no.example/debian\nURIs: http://mirror.example/debian/\n"),
            expected
        );
        assert_eq!(mirror("deb [arch=amd64] http://mirror.example/debian bookworm main"), expected);
        assert_eq!(mirror("deb http://mirror.example/debian-security bookworm main"), None);
    }

    #[test]
    fn packages_are_read_as_apt_cache_shows_them() {
        let packages = parse_packages(
            "Package: linux-image-cloud-amd64\nVersion: 6.12.117-1\n\
             Depends: linux-base (= 4.12), linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)\n\n\
             Package: linux-image-cloud-amd64\nVersion: 5.10.223-1\n\n",
        );
        assert_eq!(packages[0].version, "6.12.117-1");
        assert_eq!(packages[0].depends, ["linux-base", "linux-image-6.12.117+deb13-cloud-amd64"]);
        assert_eq!((&*packages[1].version, packages[1].depends.len()), ("5.10.223-1", 0));
    }
}
