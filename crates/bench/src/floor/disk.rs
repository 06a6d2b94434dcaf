//! How fast does this disk make appended bytes safe?

use anyhow::{Context as _, bail};
use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    time::Instant,
};

/// Microseconds of each of `n` appends of `bytes` bytes, each followed by `fdatasync`, on a thread of its own.
///
/// # Errors
/// The directory cannot be written.
pub fn appends(dir: &Path, n: usize, bytes: usize) -> anyhow::Result<Vec<f64>> {
    let path = dir.join("floor.append");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let content = vec![b'w'; bytes];
    let mut append = || -> std::io::Result<f64> {
        let start = Instant::now();
        file.write_all(&content)?;
        file.sync_data()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    // The first few pay for the file's own beginnings.
    for _ in 0..8 {
        append()?;
    }
    let times = (0..n).map(|_| append()).collect::<Result<_, _>>()?;
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

/// The file system that holds `dir`; an error if that is not a disk, where a sync proves nothing.
///
/// # Errors
/// `dir` cannot be made or resolved, or lies in memory.
pub fn filesystem(dir: &Path) -> anyhow::Result<String> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    File::open(dir)?.sync_all().with_context(|| format!("{} cannot be synced", dir.display()))?;
    let dir = dir.canonicalize()?;
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else {
        return Ok("unknown".into());
    };
    // The longest mount point above the directory is its own; of equal ones the last was mounted over the others.
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    let kind = mounted.max_by_key(|(length, _)| *length).map_or("unknown", |(_, kind)| kind);
    if ["tmpfs", "ramfs"].contains(&kind) {
        bail!(
            "{} lies on {kind}, where a sync costs nothing and proves nothing; give --dir a directory on a disk",
            dir.display()
        );
    }
    Ok(kind.into())
}
