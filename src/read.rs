//! Reads whole files, including kernel files.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, stat};
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// Bytes of one read at least. Files in `/proc` and `/sys` have no size, and settings there have to be read by one call: a shorter read
/// would get only a part of the value.
const LEAST: usize = 4096;

/// Bytes of a file at most: more than a release may have, and less than the memory limit of kpull's unit.
pub const MOST: u64 = 256 << 20;

/// Bytes of a file at most for [`named`]: more than any configuration, key or list of authorities has.
const NAMED: u64 = 8 << 20;

/// The content of a file that has `size` bytes according to its metadata. More than `most` bytes are an error, before reading if possible.
pub fn whole(file: &File, size: u64, most: u64) -> io::Result<Vec<u8>> {
    let too_large = |found: &[u8]| if found.len() as u64 > most { Err(Errno::FBIG) } else { Ok(()) };
    if size > most {
        return Err(Errno::FBIG.into());
    }
    let mut room = usize::try_from(size).unwrap_or(0).saturating_add(1).max(LEAST);
    loop {
        let mut content = Vec::new();
        content.try_reserve_exact(room)?;
        let count = next(file, &mut content)?;
        // one system call is enough for most files
        if count as u64 == size {
            return Ok(content);
        }
        too_large(&content)?;
        if content.len() < content.capacity() {
            while next(file, &mut content)? > 0 {
                too_large(&content)?;
                content.try_reserve(LEAST)?;
            }
            return Ok(content);
        }
        // it may be larger than its size, and a kernel setting has to be read by one call
        room = room.saturating_mul(2);
    }
}

/// Opens a regular file that an operator has named, following links. Anything else is refused before it is opened: a pipe would wait for
/// its writer, and opening a device can have an effect.
pub fn open_named(path: &Path) -> io::Result<File> {
    let check = |mode| match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFDIR => Err(Errno::ISDIR.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    };
    check(stat(path)?.st_mode)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    // it may have been replaced
    check(fstat(&file)?.st_mode)?;
    Ok(file)
}

/// Whether there is a directory at a path that an operator has named, following links.
pub fn is_directory(path: &Path) -> bool {
    is(path, SFlag::S_IFDIR)
}

/// The same of a regular file.
pub fn is_file(path: &Path) -> bool {
    is(path, SFlag::S_IFREG)
}

fn is(path: &Path, kind: SFlag) -> bool {
    stat(path).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind)
}

/// The content of a file that an operator has named, by [`open_named`]: a configuration, a key, a certificate.
pub fn named(path: &Path) -> io::Result<Vec<u8>> {
    up_to(path, NAMED)
}

/// [`named`], of at most so many bytes.
pub fn up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_named(path)?;
    let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
    whole(&file, size, most).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => io::Error::new(error.kind(), format!("it has more than {} MiB", most >> 20)),
        _ => error,
    })
}

/// The text of a kernel file about this process or the machine, such as `/proc/meminfo`.
pub fn kernel(path: &str) -> io::Result<String> {
    let file = File::from(open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
    let content = whole(&file, 0, MOST)?;
    String::from_utf8(content).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// A path from one of the kernel's tables, in which separators are written in octal.
pub fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// A field of a table of mounts, from which [`unescaped`] makes this text.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// Whether a map such as `/proc/self/uid_map` contains `number`. An empty map, of a kernel without namespaces, contains every number.
pub fn has_number(map: &str, number: u32) -> bool {
    let within = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), _, Some(Ok(count))) = (words.next(), words.next(), words.next()) else { return false };
        number.checked_sub(first).is_some_and(|offset| offset < count)
    };
    map.is_empty() || map.lines().any(within)
}

/// Reads what follows `content`, up to its capacity.
fn next(file: &File, content: &mut Vec<u8>) -> io::Result<usize> {
    let at = content.len() as u64;
    loop {
        match pread(file, spare_capacity(content), at) {
            Err(Errno::INTR) => {}
            read => return Ok(read?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// What a program has that asks for much at once.
    fn cat(path: &str) -> Vec<u8> {
        std::process::Command::new("cat").arg(path).output().unwrap().stdout
    }

    #[test]
    fn a_kernel_setting_is_read_completely_regardless_of_its_size() {
        for name in ["kernel/pid_max", "kernel/ostype", "net/ipv4/tcp_rmem", "kernel/random/boot_id", "kernel/version"]
        {
            let path = format!("/proc/sys/{name}");
            let file = File::open(&path).unwrap();
            for size in [0, 1, 2, 40, 10_000] {
                assert_eq!(whole(&file, size, MOST).unwrap(), cat(&path), "{path} of {size} bytes");
            }
        }
    }

    #[test]
    fn named_files_are_read_through_links_and_only_regular_ones_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert_eq!(named(&at("link")).unwrap(), b"x");
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        File::create(at("large")).unwrap().set_len(NAMED + 1).unwrap();
        let message = |path: &Path| named(path).unwrap_err().to_string();
        for path in [at("pipe"), at("socket"), "/dev/zero".into()] {
            assert_eq!(message(&path), "it is not a regular file", "{}", path.display());
        }
        assert_eq!(message(&at("large")), "it has more than 8 MiB");
        assert!(message(dir.path()).starts_with("Is a directory"));
        assert_eq!(named(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // one of the kernel's says that it has nothing
        assert!(!named(Path::new("/proc/version")).unwrap().is_empty());
    }

    #[test]
    fn what_changes_while_it_is_read_is_what_it_was_at_one_moment() {
        let uuid = || kernel("/proc/sys/kernel/random/uuid").unwrap();
        let (first, second) = (uuid(), uuid());
        for one in [&first, &second] {
            assert_eq!(one.trim_end().split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{one}");
        }
        assert_ne!(first, second);
    }

    #[test]
    fn a_list_of_the_kernel_s_is_read_beyond_what_it_gives_at_once() {
        // a page at once at most; symbols of modules and of BPF, in brackets, come and go
        let path = "/proc/kallsyms";
        let own =
            |text: String| text.lines().filter(|line| !line.ends_with(']')).map(str::to_owned).collect::<Vec<_>>();
        let (read, wanted) = (own(kernel(path).unwrap()), own(String::from_utf8(cat(path)).unwrap()));
        assert!(wanted.len() > 1000 && read == wanted, "{} of {} lines", read.len(), wanted.len());
    }

    #[test]
    fn a_file_with_another_size_than_stated_is_read_to_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        for length in [0, 1, LEAST - 1, LEAST, LEAST + 1, 5 * LEAST] {
            let content = vec![b'x'; length];
            file.set_len(0).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            file.write_all(&content).unwrap();
            for size in [0, 1, length, length + 1, 2 * LEAST] {
                assert_eq!(whole(&file, size as u64, MOST).unwrap(), content, "{length} bytes, with the size {size}");
            }
        }
    }

    #[test]
    fn what_exceeds_the_limit_is_refused_regardless_of_its_stated_size() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 3 * LEAST]).unwrap();
        for most in [0, 1, LEAST as u64, 3 * LEAST as u64 - 1] {
            for size in [0, 1, 3 * LEAST as u64] {
                assert_eq!(
                    whole(&file, size, most).unwrap_err().kind(),
                    io::ErrorKind::FileTooLarge,
                    "{size} of {most}"
                );
            }
        }
        assert_eq!(whole(&file, 0, 3 * LEAST as u64).unwrap().len(), 3 * LEAST);
        // more than any machine has memory for
        file.set_len(8 << 40).unwrap();
        assert_eq!(whole(&file, 8 << 40, MOST).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // a device has no end
        let zeros = File::open("/dev/zero").unwrap();
        assert_eq!(whole(&zeros, 0, 1 << 20).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_map_of_numbers_has_what_is_inside_its_ranges() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(has_number(map, 0) && has_number(map, 65534) && has_number(map, 65536));
        assert!(!has_number(map, 65537) && !has_number(map, u32::MAX));
        assert!(!has_number("0 1000 1\n", 65534));
        assert!(has_number("0 0 4294967295", 65534) && has_number("", 65534));
        assert!(!has_number("nonsense", 0));
    }
}
