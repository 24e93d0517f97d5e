//! Where nothing of Contact is: a bare Debian, or a folder.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::common::program::Program;
use crate::common::{or_skipped, skipped};

/// A root of its own, with a network of its own, for as long as a process in it whose standard input is held here: however a test
/// ends, nothing is left. What is changed in it is kept in memory.
pub struct Debian {
    holder: Child,
    _stdin: ChildStdin,
    _folder: TempDir,
}

/// Where something is installed and run. Lines of a shell find in `$ROOT` where the root is, and in `$PACKAGES` the packages.
pub enum Place {
    Debian(Debian),
    Folder { root: TempDir, packages: PathBuf },
}

impl Place {
    /// A bare Debian, or where none can be had, which is said, a folder.
    #[track_caller]
    pub fn new(packages: &Path) -> Place {
        Debian::new(packages).map_or_else(
            || Place::Folder { root: tempfile::tempdir().unwrap(), packages: packages.to_owned() },
            Place::Debian,
        )
    }

    fn command(&self, line: &str) -> Command {
        match self {
            Place::Debian(debian) => debian.command(line),
            Place::Folder { root, packages } => {
                let mut command = Command::new("sh");
                command.args(["-ec", line]).current_dir(root.path()).env("ROOT", root.path()).env("PACKAGES", packages);
                command
            }
        }
    }

    /// Starts a line that becomes a program.
    #[track_caller]
    pub fn spawn(&self, line: &str) -> Program {
        Program::spawn(line, &mut self.command(&format!("exec {line}"))).unwrap()
    }

    /// Runs a line to its end; what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{line}: {}\n{out}{err}", output.status);
        out
    }
}

impl Debian {
    /// `None`, said loudly, where none can be had. With `CI=true` that is a failure where it only wants a download.
    #[track_caller]
    pub fn new(packages: &Path) -> Option<Debian> {
        static ROOT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        if !rustix::process::geteuid().is_root() {
            skipped("it needs root to make a bare Debian: what is in a package is run where it was built");
            return None;
        }
        let root = or_skipped(ROOT.get_or_init(prepare))?;
        Debian::over(root, packages).map_err(|why| skipped(&why)).ok()
    }

    fn over(root: &Path, packages: &Path) -> Result<Debian, String> {
        let folder = tempfile::tempdir().unwrap();
        // It says so when it is in its root, and not before: what is run there would be run in that of this machine.
        let begin = "mount -t tmpfs none . && mkdir up work root && ip link set lo up &&
                     mount -t overlay -o lowerdir=\"$1\",upperdir=up,workdir=work none root &&
                     mount -t proc none root/proc && mkdir root/packages && mount --bind \"$2\" root/packages &&
                     exec chroot root sh -c 'echo && exec cat > /dev/null'";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", begin, "sh"]).args([root, packages]).current_dir(folder.path());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = pipes.spawn().map_err(|e| format!("unshare: {e}"))?;
        let stdin = holder.stdin.take().unwrap();
        if holder.stdout.as_mut().unwrap().read(&mut [0]).unwrap() == 0 {
            let output = holder.wait_with_output().unwrap();
            return Err(format!("a root of its own: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let debian = Debian { holder, _stdin: stdin, _folder: folder };
        // What brings its C++ library along does not miss it.
        let bare = debian.command("rm /usr/lib/*/libstdc++.so*").status().unwrap();
        assert!(bare.success(), "{bare}");
        Ok(debian)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--root"]);
        // The folder that it is in is none of that root; in another one there are no packages, and nothing is done.
        command.args(["--", "sh", "-ec", &format!("cd /packages; cd /; {line}")]).current_dir("/").env_clear();
        command.envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("ROOT", ""),
            ("PACKAGES", "/packages"),
            ("HOME", "/root"),
            ("DEBIAN_FRONTEND", "noninteractive"),
        ]);
        command
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Made once, and kept in the target folder. An error is what keeps it from being had.
fn prepare() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packages/bare-root");
    let folder = super::target().join("bare");
    super::unless_unavailable(Command::new(script).arg(&folder))?;
    fs::canonicalize(folder.join("root")).map_err(|e| e.to_string())
}
