//! How does a model read and write files, in one folder and nowhere else?
//!
//! The folder is opened once; every path is resolved below it by `cap-std`, so that neither `..`, nor an absolute path,
//! nor a symbolic link leads out, also if somebody changes the folder meanwhile.

use super::{Effect, Reply, Tool, ToolContext};
use async_trait::async_trait;
use cap_std::{ambient_authority, fs::Dir};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use windlass_runtime::CoreExecutorError;

/// The most of a file that is read at once.
const FILE_BYTES: u64 = 1024 * 1024;
/// The most entries of a folder that are listed.
const ENTRIES: usize = 1_000;
/// Local disks answer sooner; a network file system that does not is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder that an agent works in.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    dir: Dir,
}

impl Workspace {
    /// Opens a folder.
    ///
    /// # Errors
    /// As the system says, if it is not there or no folder.
    pub fn open(path: &Path) -> io::Result<Workspace> {
        let path = path.canonicalize()?;
        Ok(Workspace { dir: Dir::open_ambient_dir(&path, ambient_authority())?, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, file: &ReadArguments) -> io::Result<String> {
        self.refuse_other(&file.path)?;
        let mut open = self.dir.open(&file.path)?;
        let length = open.metadata()?.len();
        io::Seek::seek(&mut open, io::SeekFrom::Start(file.offset))?;
        let mut bytes = Vec::new();
        open.take(FILE_BYTES).read_to_end(&mut bytes)?;
        if let Err(cut) = str::from_utf8(&bytes)
            && cut.error_len().is_none()
            && file.offset + (bytes.len() as u64) < length
        {
            // The character that the end of the part cuts in two begins the next one.
            bytes.truncate(cut.valid_up_to());
        }
        let until = file.offset + bytes.len() as u64;
        let mut text = super::shown(&bytes, usize::MAX);
        if until < length {
            let _ = write!(text, "\n[cut: bytes {} to {until} of {length}; read on with this offset]", file.offset);
        }
        Ok(text)
    }

    fn write(&self, file: &WriteArguments) -> io::Result<()> {
        let path = Path::new(&file.path);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            self.dir.create_dir_all(folder)?;
        }
        self.refuse_other(&file.path)?;
        self.dir.write(path, &file.content)
    }

    /// Pipes and the like are no files: who opens one waits for somebody at its other end, for ever, on a thread that
    /// nobody can end.
    fn refuse_other(&self, path: &str) -> io::Result<()> {
        match self.dir.metadata(path) {
            Ok(found) if !found.is_file() => Err(io::Error::other("it is no file")),
            // What is not there is said by whoever opens it, or is made.
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &ListArguments) -> io::Result<String> {
        let mut lines = Vec::new();
        for entry in self.dir.read_dir(&folder.path)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
            lines.push(match () {
                () if kind.is_dir() => format!("{name}/"),
                () if kind.is_file() => format!("{name} ({} bytes)", entry.metadata()?.len()),
                () => format!("{name} (neither file nor folder)"),
            });
            if lines.len() > ENTRIES {
                lines.pop();
                lines.push(format!("[cut: the first {ENTRIES} are shown]"));
                break;
            }
        }
        lines.sort_unstable();
        Ok(if lines.is_empty() { "(empty)".into() } else { lines.join("\n") })
    }
}

/// Does something with files on a thread that may wait. Cancelled, it still comes to its end: no file is left half read.
async fn off<A>(
    workspace: &Arc<Workspace>,
    arguments: Value,
    work: impl FnOnce(&Workspace, &A) -> io::Result<String> + Send + 'static,
) -> Result<Reply, CoreExecutorError>
where
    A: DeserializeOwned + Send + 'static,
{
    let arguments: A = match serde_json::from_value(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return Ok(Reply::error("invalid_arguments", error)),
    };
    let workspace = Arc::clone(workspace);
    let done = tokio::task::spawn_blocking(move || work(&workspace, &arguments)).await;
    Ok(match done.map_err(|error| CoreExecutorError::retryable(error.to_string()))? {
        Ok(text) => Reply::done(text),
        Err(error) => Reply::error("file_error", error),
    })
}

#[derive(Deserialize)]
struct ReadArguments {
    path: String,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
struct WriteArguments {
    path: String,
    content: String,
}

#[derive(Deserialize)]
struct ListArguments {
    #[serde(default = "here")]
    path: String,
}

fn here() -> String {
    ".".into()
}

macro_rules! file_tool {
    ($(#[$doc:meta])* $tool:ident, $name:literal, $description:literal, $effect:expr, $schema:tt, $work:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $tool {
            schema: Value,
            workspace: Arc<Workspace>,
        }

        impl $tool {
            /// The tool, in this folder.
            pub fn new(workspace: Arc<Workspace>) -> $tool {
                $tool { schema: json!($schema), workspace }
            }
        }

        #[async_trait]
        impl Tool for $tool {
            fn name(&self) -> &'static str {
                $name
            }

            fn description(&self) -> &'static str {
                $description
            }

            fn schema(&self) -> &Value {
                &self.schema
            }

            fn effect(&self) -> Effect {
                $effect
            }

            fn timeout(&self) -> Duration {
                PATIENCE
            }

            async fn call(&self, arguments: Value, _: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
                off(&self.workspace, arguments, $work).await
            }
        }
    };
}

file_tool!(
    /// Reads a file of the workspace.
    ReadFile,
    "read_file",
    "Reads a file of the workspace. A long one is read in parts, by offset in bytes.",
    Effect::ReadOnly,
    {
        "type": "object",
        "properties": { "path": { "type": "string" }, "offset": { "type": "integer", "minimum": 0 } },
        "required": ["path"],
        "additionalProperties": false,
    },
    |workspace: &Workspace, file: &ReadArguments| workspace.read(file)
);

file_tool!(
    /// Writes a file of the workspace.
    WriteFile,
    "write_file",
    "Writes a file of the workspace, with the folders it is in; what was in it before is gone.",
    Effect::Idempotent,
    {
        "type": "object",
        "properties": { "path": { "type": "string" }, "content": { "type": "string" } },
        "required": ["path", "content"],
        "additionalProperties": false,
    },
    |workspace: &Workspace, file: &WriteArguments| {
        workspace.write(file)?;
        Ok(format!("{} bytes are in {}", file.content.len(), file.path))
    }
);

file_tool!(
    /// Lists a folder of the workspace.
    ListFiles,
    "list_files",
    "Lists a folder of the workspace: names, and lengths of files.",
    Effect::ReadOnly,
    {
        "type": "object",
        "properties": { "path": { "type": "string" } },
        "additionalProperties": false,
    },
    |workspace: &Workspace, folder: &ListArguments| workspace.list(folder)
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn read(workspace: &Workspace, path: &str) -> io::Result<String> {
        workspace.read(&ReadArguments { path: path.into(), offset: 0 })
    }

    fn write(workspace: &Workspace, path: &str) -> io::Result<()> {
        workspace.write(&WriteArguments { path: path.into(), content: "new".into() })
    }

    #[test]
    fn no_path_leads_out_of_the_workspace() {
        let outside = tempfile::tempdir().expect("a folder");
        let inside = outside.path().join("inside");
        fs::create_dir_all(inside.join("deep")).expect("a folder");
        fs::write(outside.path().join("secret"), "secret").expect("a file");
        fs::write(inside.join("mine"), "mine").expect("a file");
        symlink(outside.path(), inside.join("out")).expect("a link");
        symlink(outside.path().join("secret"), inside.join("link")).expect("a link");
        symlink("mine", inside.join("alias")).expect("a link");
        let workspace = Workspace::open(&inside).expect("a workspace");
        let absolute = outside.path().join("secret").to_string_lossy().into_owned();
        for path in ["../secret", "deep/../../secret", "out/secret", "link", absolute.as_str()] {
            assert!(read(&workspace, path).is_err(), "{path} is read");
            assert!(write(&workspace, path).is_err(), "{path} is written");
        }
        assert!(write(&workspace, "out/new/file").is_err());
        assert_eq!(fs::read_to_string(outside.path().join("secret")).expect("it is there"), "secret");
        assert!(workspace.list(&ListArguments { path: "..".into() }).is_err());
        for path in ["mine", "deep/../mine", "alias"] {
            assert_eq!(read(&workspace, path).expect("it is inside"), "mine");
        }
        write(&workspace, "a/b/c").expect("folders are made");
        assert_eq!(read(&workspace, "a/b/c").expect("it was written"), "new");
        let listed = workspace.list(&ListArguments { path: ".".into() }).expect("a folder");
        let other = "(neither file nor folder)";
        assert_eq!(listed, format!("a/\nalias {other}\ndeep/\nlink {other}\nmine (4 bytes)\nout {other}"));
    }

    #[test]
    fn a_pipe_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
        assert!(made.expect("mkfifo is there").success());
        let workspace = Workspace::open(folder.path()).expect("a workspace");
        // Who waits for the other end of a pipe never comes back.
        let (done, tried) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let refused = read(&workspace, "pipe").is_err() && write(&workspace, "pipe").is_err();
            done.send(refused && read(&workspace, ".").is_err())
        });
        assert!(tried.recv_timeout(Duration::from_secs(10)).expect("it does not wait"));
    }

    #[test]
    fn long_files_are_read_in_parts_and_bytes_that_are_no_text_are_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let workspace = Workspace::open(folder.path()).expect("a workspace");
        fs::write(folder.path().join("long"), "x".repeat(FILE_BYTES as usize + 3)).expect("a file");
        let first = read(&workspace, "long").expect("a part");
        assert!(first.ends_with("bytes 0 to 1048576 of 1048579; read on with this offset]"), "{}", first.len());
        let rest = workspace.read(&ReadArguments { path: "long".into(), offset: FILE_BYTES }).expect("the rest");
        assert_eq!(rest, "xxx");
        fs::write(folder.path().join("words"), format!("{}ärgerlich", "x".repeat(FILE_BYTES as usize - 1)))
            .expect("a file");
        let first = read(&workspace, "words").expect("a part");
        assert!(
            first.ends_with("x\n[cut: bytes 0 to 1048575 of 1048585; read on with this offset]"),
            "{}",
            first.len()
        );
        let rest = workspace.read(&ReadArguments { path: "words".into(), offset: FILE_BYTES - 1 }).expect("the rest");
        assert_eq!(rest, "ärgerlich");
        for raw in [&[0xff, b'a'][..], "half an ä".as_bytes().split_last().expect("some").1] {
            fs::write(folder.path().join("raw"), raw).expect("a file");
            assert!(read(&workspace, "raw").expect("text").contains("[invalid_utf8"), "{raw:?}");
        }
    }
}
