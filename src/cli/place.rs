//! A directory that is made whole or not at all.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::clock;
use crate::config;
use crate::error::{Error, Reason, Result};

pub(super) fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|fault| unusable(path, &fault))
}

pub(super) fn unusable(directory: &Path, fault: &std::io::Error) -> Error {
    Error::new(Reason::DataDirectory, format!("{} cannot be used: {fault}", directory.display()))
        .hint("name a new directory in one that is there and that this user may write")
}

/// What the name of an unfinished directory begins with.
const PARTIAL: &str = ".partial-";

/// A directory that is filled in a part of its own, and gets its content when that is whole. Dropped before that,
/// everything is removed again.
pub(super) struct Place {
    target: PathBuf,
    pub(super) partial: PathBuf,
    /// Whether the target was not there before.
    new: bool,
    moved: Vec<PathBuf>,
    done: bool,
}

impl Place {
    pub(super) fn begin(target: &Path) -> Result<Self> {
        let partial = target.join(format!("{PARTIAL}{}", hex::encode(clock::random::<4>()?)));
        let new = match fs::read_dir(target) {
            Ok(mut entries) => match entries.next() {
                None => false,
                Some(entry) => return Err(occupied(target, &entry.map_err(|fault| unusable(target, &fault))?.path())),
            },
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => true,
            Err(fault) => return Err(unusable(target, &fault)),
        };
        if new {
            private_directory(target)?;
        }
        let place = Place { target: target.to_owned(), partial, new, moved: Vec::new(), done: false };
        private_directory(&place.partial)?;
        Ok(place)
    }

    /// Moves the content into its place, the configuration last: a directory without it is no data directory.
    pub(super) fn finish(mut self) -> Result<()> {
        let fault = |fault| unusable(&self.target, &fault);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.partial).map_err(fault)? {
            names.push(entry.map_err(fault)?.file_name());
        }
        names.sort_by_key(|name| name == config::FILE);
        fs::set_permissions(&self.target, Permissions::from_mode(0o700)).map_err(fault)?;
        for name in names {
            let to = self.target.join(&name);
            fs::rename(self.partial.join(&name), &to).map_err(fault)?;
            self.moved.push(to);
        }
        self.done = true;
        fs::remove_dir(&self.partial).map_err(fault)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for path in self.moved.iter().chain([&self.partial]) {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        }
        if self.new {
            let _ = fs::remove_dir(&self.target);
        }
    }
}

fn occupied(target: &Path, found: &Path) -> Error {
    let fault = Error::new(Reason::DataDirectory, format!("{} is not empty", target.display()));
    if found.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PARTIAL.as_bytes())) {
        let found = found.display();
        return fault
            .hint(format!("an earlier run was broken off and left PINs in {found}; remove that, then try again"));
    }
    fault.hint("name a new directory")
}
