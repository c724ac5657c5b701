//! `kpull secret`.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use ssh_key::rand_core::{OsRng, RngCore as _};
use zeroize::Zeroizing;

use crate::author::secret::admin::SecretAdmin;
use crate::cli::prelude::*;
use crate::host::process::at_terminal;
use crate::secret::readers::Reader;
use crate::secret::{Keyring, LARGEST, Plain, name};

/// Arguments of `secret`.
#[derive(Args, Debug)]
pub struct Secret {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: SiteArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a secret from standard input or a prompt
    Set(Set),
    /// Edit a secret in an editor
    Edit(Edit),
    /// Decrypt a secret to standard output
    Show(Named),
    /// Encrypt secrets again after a change of roles, hosts or keys
    Rekey(Rekey),
    /// List the secrets and the hosts that can read them
    List,
    /// Remove a secret that no role uses
    Rm {
        /// The name of the secret
        name: String,
    },
}

#[derive(Args, Debug)]
struct Set {
    /// The name of the secret, such as `db-password` or `app/tls.key`
    name: String,
    /// Read the value from this file
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    from: Option<PathBuf>,
    /// Generate a random value of this many bytes, in hex [default: 32]
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "32",
          value_parser = clap::value_parser!(u16).range(8..=1024))]
    generate: Option<u16>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args, Debug)]
struct Named {
    /// The name of the secret
    name: String,
    #[command(flatten)]
    identity: Identity,
}

#[derive(Args, Debug)]
struct Edit {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
}

/// Whether new readers are allowed.
#[derive(Args, Debug)]
struct Consent {
    /// Do not ask for confirmation before new recipients get access to a secret
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Debug)]
struct Rekey {
    #[command(flatten)]
    identity: Identity,
    /// Only report the secrets that must be encrypted again; exit with 2 if there are any
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    consent: Consent,
}

/// The private keys that decrypt.
#[derive(Args, Debug)]
pub(super) struct Identity {
    /// Decrypt with this private key, of OpenSSH or age; repeatable [default: ~/.ssh/id_ed25519,
    /// ~/.ssh/id_rsa and ~/.config/kpull/identity]
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
}

impl Identity {
    /// The private keys that it names.
    pub(super) fn keys(&self) -> Result<Keyring> {
        if let Some(missing) = self.identity.iter().find(|file| !file.exists()) {
            return Err(error!(SECRET_WRITE, "there is no key {}", missing.display())
                .help("--identity names a file with a private key"));
        }
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        let usual = [".ssh/id_ed25519", ".ssh/id_rsa", ".config/kpull/identity"].map(|path| home.join(path));
        let files = if self.identity.is_empty() { usual.to_vec() } else { self.identity.clone() };
        Keyring::load(&files, Some(ask))
    }
}

impl Run for Secret {
    fn run(&self) -> Result<Exit> {
        match &self.command {
            Command::Set(set) => self.set(set),
            Command::Edit(edit) => self.edit(edit),
            Command::Show(named) => self.show(named),
            Command::Rekey(rekey) => self.rekey(rekey),
            Command::List => self.list(),
            Command::Rm { name } => self.remove(name),
        }
    }
}

impl Secret {
    /// The secrets of the site, with a warning for each host whose recorded facts can't be read.
    fn open(&self) -> Result<SecretAdmin> {
        let admin = SecretAdmin::open(&self.options.site)?;
        for (host, warning) in admin.warnings() {
            let object = json!({ "event": "warning", "host": host, "warning": warning });
            print_result(self.options.json, object, &format!("! {warning}"));
        }
        Ok(admin)
    }

    fn set(&self, set: &Set) -> Result<Exit> {
        // before the prompt
        name::check(&set.name)?;
        let mut admin = self.open()?;
        admin.check(&set.name)?;
        self.check_newcomers(&[(set.name.clone(), admin.newcomers(&set.name)?)], &set.consent)?;
        let plain = match (&set.from, set.generate) {
            (_, Some(bytes)) => random(usize::from(bytes)),
            (Some(path), None) => {
                let file = std::fs::File::open(path)
                    .context(code::SECRET_WRITE, || format!("can't read {}", path.display()))?;
                read_all(file, &path.display().to_string())?
            }
            (None, None) if std::io::stdin().is_terminal() => typed(&set.name)?,
            (None, None) => read_all(std::io::stdin(), "standard input")?,
        };
        self.write(&mut admin, &set.name, &plain)
    }

    fn write(&self, admin: &mut SecretAdmin, name: &str, plain: &Plain) -> Result<Exit> {
        if plain.is_empty() {
            return Err(error!(SECRET_WRITE, "the value of {name} is empty, and nothing was written")
                .help("pass it on standard input, or with --from FILE"));
        }
        let hosts: Vec<String> = admin.set(name, plain)?.into_iter().collect();
        let line = match hosts.is_empty() {
            true => format!(
                "{name}: encrypted to the operators only, since no role uses it yet; run {} when one does",
                complete("`kpull secret rekey`")
            ),
            false => format!("{name}: encrypted to {} and the operators", hosts.join(", ")),
        };
        print_result(self.options.json, json!({ "event": "secret_set", "name": name, "hosts": hosts }), &line);
        if plain.trim_ascii().len() < 8 && !self.options.json {
            print("! fewer than 8 bytes: easy to guess, and too short to be hidden in the output of programs");
        }
        Ok(Exit::Done)
    }

    fn edit(&self, edit: &Edit) -> Result<Exit> {
        let named = &edit.named;
        let mut admin = self.open()?;
        admin.check(&named.name)?;
        self.check_newcomers(&[(named.name.clone(), admin.newcomers(&named.name)?)], &edit.consent)?;
        let old = named.identity.keys()?.open(&named.name, &admin.encrypted(&named.name)?)?;
        let new = edited(&old)?;
        if new == old {
            print(&format!("{}: nothing was changed", named.name));
            return Ok(Exit::Done);
        }
        self.write(&mut admin, &named.name, &new)
    }

    fn show(&self, named: &Named) -> Result<Exit> {
        let encrypted = SecretStore::encrypted_file(&named.name, &Files::in_directory(&self.options.site)?)?;
        let plain = named.identity.keys()?.open(&named.name, &encrypted)?;
        let mut out = std::io::stdout();
        out.write_all(&plain)
            .and_then(|()| out.flush())
            .context(code::SECRET_WRITE, || "can't write to standard output")?;
        Ok(Exit::Done)
    }

    fn rekey(&self, rekey: &Rekey) -> Result<Exit> {
        let mut admin = self.open()?;
        let stale = admin.all_stale()?;
        let mut widened = Vec::new();
        for (name, why) in &stale {
            let object = json!({ "event": "secret_stale", "name": name, "why": why });
            print_result(self.options.json, object, &format!("~ {name}: {why}"));
            widened.push((name.clone(), admin.newcomers(name)?));
        }
        if rekey.check {
            self.list_newcomers(&widened);
            return Ok(if stale.is_empty() { Exit::Done } else { Exit::Changes });
        }
        self.check_newcomers(&widened, &rekey.consent)?;
        let done = admin.rekey(&|| rekey.identity.keys())?;
        let line = match done.len() {
            0 => "every secret is encrypted to the right recipients".to_owned(),
            count => format!("encrypted {} again: sign the site", counted(count, "secret")),
        };
        print_result(self.options.json, json!({ "event": "done", "rekeyed": done.len() }), &line);
        Ok(Exit::Done)
    }

    /// Lists new readers of secrets, and asks for confirmation; an error if it is not given.
    fn check_newcomers(&self, widened: &[(String, Vec<Reader>)], consent: &Consent) -> Result<()> {
        self.list_newcomers(widened);
        let count = widened.iter().filter(|(_, readers)| !readers.is_empty()).count();
        if count == 0 || consent.yes {
            return Ok(());
        }
        let secrets = counted(count, "secret");
        let refused = |why: &str| {
            error!(SECRET_WRITE, "{secrets} would get new recipients, so nothing was written").because(why).help(
                "if this is intended, run the command again with `--yes`; otherwise, check which role or host_vars file causes it",
            )
        };
        if self.options.json || !std::io::stdin().is_terminal() {
            return Err(refused("there is no terminal for the confirmation"));
        }
        match confirm(&format!("Grant access to {secrets}? [y/N]"))? {
            true => Ok(()),
            false => Err(refused("you did not confirm")),
        }
    }

    fn list_newcomers(&self, widened: &[(String, Vec<Reader>)]) {
        for (name, reader) in widened.iter().flat_map(|(name, readers)| readers.iter().map(move |one| (name, one))) {
            let key = reader.key.fingerprint();
            let object = json!({ "event": "secret_reader", "name": name, "host": reader.host, "key": key });
            print_result(self.options.json, object, &format!("+ {name}: {reader} gains access"));
        }
    }

    fn list(&self) -> Result<Exit> {
        let admin = self.open()?;
        for name in admin.names() {
            let hosts: Vec<String> = admin.hosts(&name).into_iter().collect();
            let stale = admin.stale(&name)?;
            let whose = if hosts.is_empty() { "(operators only)".to_owned() } else { hosts.join(", ") };
            let note = stale.as_ref().map_or_else(String::new, |why| format!("  ! {why}"));
            let object = json!({ "event": "secret", "name": name, "hosts": hosts, "stale": stale });
            print_result(self.options.json, object, &format!("{name:<24} {whose}{note}"));
        }
        Ok(Exit::Done)
    }

    fn remove(&self, name: &str) -> Result<Exit> {
        SecretAdmin::open(&self.options.site)?.remove(name)?;
        print_result(
            self.options.json,
            json!({ "event": "secret_removed", "name": name }),
            &format!("{name}: removed; the git history still contains it, so also change the secret where it is used"),
        );
        Ok(Exit::Done)
    }
}

/// A new secret, in hex.
pub(super) fn random(bytes: usize) -> Plain {
    let mut random = Zeroizing::new(vec![0; bytes]);
    OsRng.fill_bytes(&mut random);
    hex::encode(&*random).into_bytes().into()
}

/// Reads a secret, up to its maximum size.
fn read_all(from: impl std::io::Read, what: &str) -> Result<Plain> {
    let mut plain = Zeroizing::new(Vec::with_capacity(64 * 1024));
    from.take(LARGEST + 1).read_to_end(&mut plain).context(code::SECRET_WRITE, || format!("can't read {what}"))?;
    if plain.len() as u64 > LARGEST {
        return Err(error!(SECRET_WRITE, "{what} is larger than a secret can be ({LARGEST} bytes)")
            .help("publish large files as artifacts"));
    }
    Ok(plain)
}

fn typed(name: &str) -> Result<Plain> {
    let first = ask(&format!("Value of {name}"))?;
    if *ask("Once more")? != *first {
        return Err(error!(SECRET_WRITE, "the two values differ, and nothing was written").help("try again"));
    }
    Ok(first.as_bytes().to_vec().into())
}

fn terminal() -> Result<std::fs::File> {
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty");
    terminal.context(code::SECRET_WRITE, || "can't prompt on the terminal")
}

/// Asks on the terminal, without echo.
fn ask(question: &str) -> Result<Zeroizing<String>> {
    let what = || "can't prompt on the terminal".to_owned();
    let mut terminal = terminal().map_err(|error| error.help("run this in a terminal"))?;
    let shown = tcgetattr(&terminal).context(code::SECRET_WRITE, what)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    // Ctrl-C must not leave the terminal without echo
    let answer = uninterrupted(|| {
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden).context(code::SECRET_WRITE, what)?;
        let answer =
            write!(terminal, "{question}: ").context(code::SECRET_WRITE, what).and_then(|()| read_line(&terminal));
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &shown).context(code::SECRET_WRITE, what)?;
        answer
    })?;
    Ok(answer)
}

/// Asks for confirmation on the terminal.
fn confirm(question: &str) -> Result<bool> {
    let mut terminal = terminal().map_err(|error| error.help("run this in a terminal, or with `--yes`"))?;
    write!(terminal, "{question} ").context(code::SECRET_WRITE, || "can't prompt on the terminal")?;
    Ok(matches!(read_line(&terminal)?.trim(), "y" | "Y" | "yes"))
}

fn read_line(mut from: &std::fs::File) -> Result<Zeroizing<String>> {
    let (mut line, mut byte) = (Zeroizing::new(Vec::with_capacity(4096)), [0]);
    while line.len() < 4096 && from.read(&mut byte).context(code::SECRET_WRITE, || "can't read the input")? == 1 {
        match byte[0] {
            b'\n' => break,
            other => line.push(other),
        }
    }
    let text = std::str::from_utf8(&line).map(ToOwned::to_owned);
    text.map(Zeroizing::new).map_err(|_| error!(SECRET_WRITE, "the input is not UTF-8").help("use --from FILE"))
}

/// Runs work that needs cleanup, with terminating signals blocked until it is done.
fn uninterrupted<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP]
        .into_iter()
        .for_each(|signal| signals.add(signal));
    let before = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    let done = work();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    done
}

/// Opens a secret in an editor. The text is only in memory, in its own directory, and only while the editor runs.
fn edited(old: &Plain) -> Result<Plain> {
    uninterrupted(|| {
        let what = || "can't create a file to edit".to_owned();
        let dir = tempfile::Builder::new()
            .prefix("kpull-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(memory()?)
            .context(code::SECRET_WRITE, what)?;
        let path = dir.path().join("secret");
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(old)).context(code::SECRET_WRITE, what)?;
        let new = run_editor(&path).and_then(|()| {
            let file = std::fs::File::open(&path).context(code::SECRET_WRITE, || "can't read the edited file")?;
            read_all(file, "the secret")
        });
        dir.close().context(code::SECRET_WRITE, || "can't remove the edited file")?;
        new
    })
}

fn run_editor(path: &Path) -> Result<()> {
    let chosen = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|editor| !editor.is_empty());
    let editor = chosen.map_or_else(|| "vi".to_owned(), |editor| editor.to_string_lossy().into_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = at_terminal(program)
        .args(words)
        .arg(path)
        .status()
        .context(code::SECRET_WRITE, || format!("can't start the editor {program}"))
        .map_err(|error| error.help("set VISUAL or EDITOR"))?;
    if status.success() {
        return Ok(());
    }
    Err(error!(SECRET_WRITE, "the editor {program} failed, and nothing was written").because(status))
}

/// A directory whose files are in memory.
fn memory() -> Result<PathBuf> {
    let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let is_memory = |dir: &PathBuf| {
        nix::sys::statfs::statfs(dir).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
    };
    run.into_iter().chain([PathBuf::from("/dev/shm")]).find(is_memory).ok_or_else(|| {
        error!(SECRET_WRITE, "can't edit a secret: no directory in memory is available")
            .because("neither XDG_RUNTIME_DIR nor /dev/shm is a tmpfs")
            .help("write the secret again, with `kpull secret set`")
    })
}
