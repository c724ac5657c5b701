//! Tar archives, with GNU's and POSIX's extensions.

use std::io::{self, Read};

use tar::{Archive, Entry, EntryType as Type};

use super::stream::Meter;
use super::{Kind, Member, PUBLISHER, Pass};
use crate::error::Result;

/// Bytes that the headers of one member may take, since they are held in memory.
const HEADERS: u64 = 1 << 20;

impl Pass<'_> {
    /// Reads a tar archive.
    pub(super) fn tar(&mut self, stream: impl Read, meter: &Meter<'_>) -> Result<()> {
        let source = self.archive;
        let damaged = |error| source.fault(None, error);
        let mut archive = Archive::new(stream);
        let mut entries = archive.entries().map_err(damaged)?;
        let mut unread = 0;
        loop {
            meter.allowed.set(HEADERS.saturating_add(unread));
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(damaged)?;
            let kind = entry.header().entry_type();
            unread = match kind {
                // its own size includes the holes, which are never read
                Type::GNUSparse => entry.header().entry_size().map_err(damaged)?,
                _ => entry.size(),
            };
            if kind == Type::XGlobalHeader {
                continue;
            }
            let (name, kind) = match sparse_name(&mut entry).map_err(damaged)? {
                Some(name) => (name, Kind::Sparse),
                None => (entry.path_bytes().into_owned(), kind_of(&entry)),
            };
            if let Some(name) = self.admit(&name, &kind)? {
                let executable = entry.header().mode().map_err(damaged)? & 0o111 != 0;
                meter.allowed.set(u64::MAX);
                self.hand(&Member { name, size: Some(unread), executable, kind }, &mut entry)?;
            }
        }
        meter.allowed.set(u64::MAX);
        if meter.has_ended.get() {
            return Err(source.wrong("is truncated: the end of the archive is missing").help(PUBLISHER));
        }
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(damaged)
    }
}

/// The real name of a file that POSIX's extension stores without its holes: its content starts with a table of them.
fn sparse_name(entry: &mut Entry<'_, impl Read>) -> io::Result<Option<Vec<u8>>> {
    let (name, mut sparse) = (entry.path_bytes().into_owned(), None);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        match record.key_bytes() {
            b"GNU.sparse.name" => sparse = Some(record.value_bytes().to_vec()),
            key if key.starts_with(b"GNU.sparse.") => sparse = sparse.or_else(|| Some(name.clone())),
            _ => {}
        }
    }
    Ok(sparse)
}

fn kind_of(entry: &Entry<'_, impl Read>) -> Kind {
    let target = || entry.link_name_bytes().map(|to| String::from_utf8_lossy(&to).into_owned());
    match entry.header().entry_type() {
        // before ustar, a directory was a file whose name ends with a slash
        Type::Regular if entry.path_bytes().ends_with(b"/") => Kind::Directory,
        Type::Regular => Kind::Regular,
        Type::Directory => Kind::Directory,
        Type::Symlink => Kind::Symlink(target()),
        Type::Link => Kind::HardLink(target().unwrap_or_default()),
        Type::Char | Type::Block => Kind::Special("device"),
        Type::Fifo => Kind::Special("fifo"),
        Type::GNUSparse => Kind::Sparse,
        other => Kind::Unknown(other.as_byte()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use tar::EntryType;

    use super::super::testing::*;
    use crate::document::Format;

    #[test]
    fn a_sparse_file_of_any_kind_is_refused_when_wanted_and_skipped_otherwise() {
        let mut old = header(b"a", EntryType::GNUSparse, 0);
        let gnu = old.as_gnu_mut().unwrap();
        // A hole of some tebibytes, which nobody may read through.
        gnu.realsize = *b"77777777777\0";
        gnu.sparse[0].offset = *b"77777777777\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        old.set_cksum();
        let records = pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "a")]);
        let new = [records, file("GNUSparseFile.1/a", b"1\n0\n512\n")].concat();
        for sparse in [old.as_bytes().to_vec(), new] {
            let tar = tarball(&[sparse, file("good", b"good")]);
            assert_refused(take(Format::Tar, &tar, &["a"]), "is stored as a sparse file");
            assert_eq!(take(Format::Tar, &tar, &["good"]).unwrap()[0].1, b"good");
        }
    }

    #[test]
    fn long_names_of_either_kind_work() {
        let name = format!("{}/tool", ["a-directory-with-a-name"; 20].join("/"));
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header(b"", EntryType::Regular, TOOL.len() as u64), &name, TOOL).unwrap();
        let gnu = builder.into_inner().unwrap();
        assert_eq!(take(Format::Tar, &gnu, &[&name]).unwrap()[0].1, TOOL);
        let pax = tarball(&[pax(b'x', &[("mtime", "1.5"), ("path", &name)]), file("short", TOOL)]);
        assert_eq!(take(Format::Tar, &pax, &[&name]).unwrap()[0].1, TOOL);
    }

    #[test]
    fn invalid_extended_headers_are_refused_and_global_ones_name_no_member() {
        let malformed = tarball(&[entry(b"pax", EntryType::XHeader, b"99 path=b\n"), file("a", TOOL)]);
        assert_refused(take(Format::Tar, &malformed, &[]), "malformed pax extension");
        let global = |records: &[(&str, &str)]| tarball(&[pax(b'g', records), file("a", TOOL)]);
        for records in [[("path", "b")], [("comment", "c0ffee")]] {
            assert_eq!(take(Format::Tar, &global(&records), &["a"]).unwrap()[0].1, TOOL);
            assert_refused(take(Format::Tar, &global(&records), &["b"]), "has no member `b`");
        }
    }

    fn run(directory: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn what_the_system_s_tar_and_gzip_write_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let deep = format!("{}/tool", ["a-directory-with-a-name"; 7].join("/"));
        fs::create_dir_all(at(&deep).parent().unwrap()).unwrap();
        let big: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        fs::write(at(&deep), &big).unwrap();
        fs::write(at("small"), TOOL).unwrap();
        fs::hard_link(at("small"), at("twin")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("symlink")).unwrap();
        fs::File::create(at("holes")).unwrap().set_len(10 << 20).unwrap();

        let holes = vec![0; 10 << 20];
        let members = ["./small", "./twin", "./symlink", "./holes"];
        // The oldest style has no room for a deep name, and the two old ones none for holes.
        let styles: [(&str, &[&str]); 4] = [
            ("v7", &[]),
            ("ustar", &["./a-directory-with-a-name"]),
            ("gnu", &["-S", "./a-directory-with-a-name"]),
            ("posix", &["-S", "./a-directory-with-a-name"]),
        ];
        for (style, more) in styles {
            let style_option = format!("--format={style}");
            let options = [[style_option.as_str(), "-czf", "-"].as_slice(), &members, more].concat();
            let bytes = run(directory.path(), "tar", &options);
            let content = |name: &str| take(Format::TarGz, &bytes, &[name]).map(|mut taken| taken.remove(0).1);
            assert_eq!(content("small").unwrap(), TOOL, "{style}");
            let links = [("twin", "is a hard link to `./small`"), ("symlink", "is a symbolic link to `/etc/passwd`")];
            for (name, words) in links {
                assert!(content(name).unwrap_err().to_string().contains(words), "{style}");
            }
            if more.contains(&"-S") {
                assert!(content("holes").unwrap_err().to_string().contains("sparse"), "{style}");
            } else {
                assert!(content("holes").unwrap() == holes, "{style}");
            }
            if !more.is_empty() {
                assert!(content(&deep).unwrap() == big, "{style}");
            }
        }

        let once = run(directory.path(), "gzip", &["-c", "small"]);
        assert_eq!(take(Format::Gz, &once, &["tool"]).unwrap()[0].1, TOOL);
        let twice = run(directory.path(), "gzip", &["-9c", "small", "small"]);
        assert_eq!(take(Format::Gz, &twice, &["tool"]).unwrap()[0].1, TOOL.repeat(2));
    }
}
