//! Which files does a program behind walls see?

use super::Sandbox;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use std::{error::Error, path::Path};

/// What programs need to run, as far as it is there. Of `/etc` what is not secret, piece by piece: a rule cannot leave
/// out what lies below it.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/protocols",
    "/etc/python3",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];
/// Devices that hold nothing.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What must be there: before this version a file that may not be written can be cut to nothing.
const NEEDED: ABI = ABI::V3;
/// What is taken where it is there: from version 4 on the network, from 5 on devices' controls, from 6 on signals and
/// abstract sockets of others.
const WANTED: ABI = ABI::V6;

/// Walls in the calling thread and all that it starts: they see the system, the current folder, the temporary one, and
/// what the sandbox says. Says what is missing, if that is allowed.
pub(super) fn wall_in(sandbox: &Sandbox, temporary: &Path) -> Result<Option<String>, Box<dyn Error>> {
    let level = if sandbox.best_effort { CompatLevel::BestEffort } else { CompatLevel::HardRequirement };
    let mut rules = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    if !sandbox.network {
        rules = rules.handle_access(AccessNet::from_all(WANTED))?;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    // No devices are made: whoever makes one reaches what is behind it.
    let change = AccessFs::from_all(WANTED) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut rules = rules
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?;
    let own = [Path::new("."), temporary];
    let paths = sandbox.read.iter().map(|path| (path.as_path(), read));
    let paths = paths.chain(sandbox.write.iter().map(|path| (path.as_path(), change)));
    for (path, access) in paths.chain(own.map(|path| (path, change))) {
        rules = rules.add_rule(beneath(path, access)?)?;
    }
    let status = rules.restrict_self()?;
    Ok((status.ruleset == RulesetStatus::NotEnforced)
        .then(|| "this system has no Landlock: files are as open as to its user".into()))
}

/// A rule for a path, which must be there. A file takes no rights of folders.
fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Box<dyn Error>> {
    let opened = PathFd::new(path)?;
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
    Ok(PathBeneath::new(opened, access))
}
