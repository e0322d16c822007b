use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use image::{ElfImage, FileId, ImageAbsence, MappingKind, NewMapping};
use process::{Images, MapRow, Process};

use crate::support::{Target, copy_of_cat, without_map_files};

fn row_of(process: &Process, path: &Path) -> MapRow {
    let path = path.to_str().unwrap().as_bytes();
    let maps = process.exec_maps().unwrap();
    assert_eq!((maps.malformed, maps.truncated), (0, false));
    assert!(maps.rows.iter().all(|r| r.perms.execute));
    maps.rows.into_iter().find(|r| &*r.path == path).unwrap()
}

fn build_id_of_cat() -> String {
    let id = ElfImage::open(&fs::File::open("/bin/cat").unwrap()).unwrap().build_id_hex();
    assert!(!id.is_empty());
    id
}

fn build_id(mapping: &NewMapping) -> String {
    mapping.image.as_ref().unwrap().0.build_id_hex()
}

/// Maps a file executable, closes it and waits, so that the test can tamper with the path.
const MAPPER: &str = "
import mmap, sys, os
f = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(f, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
os.close(f)
print('ready', flush=True)
input()
";

#[test]
fn every_file_is_opened_once_and_gets_a_bias() {
    let target = Target::cat(Path::new("/bin/cat"));
    let process = Process::open(target.pid()).unwrap();
    let rows = process.exec_maps().unwrap().rows;
    let mut images = Images::new();
    let first: Vec<_> = rows.iter().map(|r| images.resolve(Some(&process), r)).collect();
    let count = images.len();
    for (row, mapping) in rows.iter().zip(&first) {
        let name = row.path.escape_ascii();
        if mapping.kind == MappingKind::Vsyscall {
            assert_eq!(mapping.image.as_ref().unwrap_err(), &ImageAbsence::Anonymous);
            continue;
        }
        let (image, bias) = mapping.image.as_ref().unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // The image and the process's memory must agree at the start of the mapping.
        let svma = bias.to_svma(row.start);
        let mut live = [0; 64];
        image::Memory::read(&process.memory().unwrap(), row.start, &mut live).unwrap();
        let segment = image.segments().iter().find(|s| s.executable).unwrap();
        assert_eq!(segment.svma.0 & !0xfff, svma.0, "{name}");
        let offset = usize::try_from(mapping.offset.0).unwrap();
        assert_eq!(image.bytes()[offset..offset + 64], live, "{name}");
        let again = images.resolve(Some(&process), row).image.unwrap().0;
        assert!(Arc::ptr_eq(image, &again), "{name}");
    }
    assert!(first.iter().any(|m| m.kind == MappingKind::Vdso));
    assert_eq!((images.len(), images.unguarded()), (count, 0));
    // An event that arrives after the process has exited still finds known images.
    drop(target);
    let file = rows.iter().position(|r| r.kind() == MappingKind::File).unwrap();
    let late = images.resolve(None, &rows[file]).image.unwrap().0;
    assert!(Arc::ptr_eq(&late, &first[file].image.as_ref().unwrap().0));
}

#[test]
fn a_deleted_program_is_still_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = copy_of_cat(dir.path());
    let target = Target::cat(&path);
    fs::remove_file(&path).unwrap();
    let process = Process::open(target.pid()).unwrap();
    assert!(process.identity().exe_deleted);
    let row = row_of(&process, &path);
    assert!(row.deleted);
    assert_eq!(build_id(&Images::new().resolve(Some(&process), &row)), build_id_of_cat());
    let by_exe_link = without_map_files(|| Images::new().resolve(Some(&process), &row));
    assert_eq!(build_id(&by_exe_link), build_id_of_cat());
}

#[test]
fn a_replaced_program_is_read_in_the_version_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = copy_of_cat(dir.path());
    let target = Target::cat(&path);
    let other = dir.path().join("other");
    fs::copy("/bin/ls", &other).unwrap();
    fs::rename(&other, &path).unwrap();
    let process = Process::open(target.pid()).unwrap();
    let row = row_of(&process, &path);
    assert_eq!(build_id(&Images::new().resolve(Some(&process), &row)), build_id_of_cat());
    let by_exe_link = without_map_files(|| Images::new().resolve(Some(&process), &row));
    assert_eq!(build_id(&by_exe_link), build_id_of_cat());
}

#[test]
fn a_missing_library_is_reported_if_only_its_path_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = copy_of_cat(dir.path());
    let (target, _) = Target::python(MAPPER, &[&path]);
    let process = Process::open(target.pid()).unwrap();
    let row = row_of(&process, &path);
    let mut by_path = Images::new();
    let fine = without_map_files(|| by_path.resolve(Some(&process), &row));
    assert_eq!(build_id(&fine), build_id_of_cat());

    let absence = |row: &MapRow| {
        without_map_files(|| Images::new().resolve(Some(&process), row)).image.unwrap_err()
    };
    fs::remove_file(&path).unwrap();
    let gone = row_of(&process, &path);
    let text = format!("{:?}", absence(&gone));
    assert!(text.contains("CAP_CHECKPOINT_RESTORE"), "{text}");

    // Opening a FIFO would block, and opening a device might have any effect.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(absence(&gone), ImageAbsence::Replaced);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/tty", &path).unwrap();
    assert_eq!(absence(&gone), ImageAbsence::Replaced);
    fs::remove_file(&path).unwrap();
    fs::copy("/bin/ls", &path).unwrap();
    assert_eq!(absence(&gone), ImageAbsence::Replaced);
    // A row with the inode of the FIFO at that path is rejected, too.
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let stat = nix::sys::stat::stat(&path).unwrap();
    let file = FileId { inode: stat.st_ino, ..gone.file };
    let absence = absence(&MapRow { file, deleted: false, ..gone.clone() });
    assert_eq!(absence, ImageAbsence::Unopened("not a regular file".into()));

    let mut by_mapping = Images::new();
    assert_eq!(build_id(&by_mapping.resolve(Some(&process), &gone)), build_id_of_cat());
}

#[test]
fn a_file_that_is_not_elf_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with\nnewline");
    fs::write(&path, vec![b'#'; 5000]).unwrap();
    let (target, _) = Target::python(MAPPER, &[&path]);
    let process = Process::open(target.pid()).unwrap();
    let row = row_of(&process, &path);
    let mapping = Images::new().resolve(Some(&process), &row);
    assert!(matches!(mapping.image, Err(ImageAbsence::NotElf(_))), "{mapping:?}");
}

#[test]
fn a_file_on_a_mount_that_only_the_target_sees_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("library");
    let script = "mount -t tmpfs none \"$1\" && cp /bin/cat \"$1/library\" \
        && exec python3 -c \"$2\" \"$1/library\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["-mpf", "--mount-proc", "sh", "-c", script, "sh"]).arg(dir.path()).arg(MAPPER);
    let mut target = Target::start(&mut unshare);
    assert_eq!(target.line(), "ready");
    assert!(!path.exists());
    let children = format!("/proc/{0}/task/{0}/children", target.pid());
    let inner = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let process = Process::open(inner).unwrap();
    let row = row_of(&process, &path);
    assert_eq!(build_id(&Images::new().resolve(Some(&process), &row)), build_id_of_cat());
    let mut by_path = Images::new();
    let found = without_map_files(|| by_path.resolve(Some(&process), &row));
    assert_eq!(build_id(&found), build_id_of_cat());
    drop(target.child.stdin.take());
    assert!(process.wait_exit(None).unwrap());
    // The mount has vanished with the process, but the image is kept.
    assert_eq!(build_id(&by_path.resolve(None, &row)), build_id_of_cat());
    assert!(Images::new().resolve(None, &row).image.is_err());
}
