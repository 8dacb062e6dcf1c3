//! The unix VFS of SQLite, on disks of ours: all the unsafe code of this test.
//!
//! A wrapper. Files in a simulated disk's directory are real ones that the
//! unix VFS keeps, locks and shared memory included; what changes them is told
//! to the [`Disk`] first, which may say that there is no power any more. All
//! other files are the unix VFS's alone. It is registered as the default, so
//! that the store needs to know nothing of it.
//!
//! Which directory is synced, and when, SQLite itself decides: the unix VFS
//! opens it to that end by a system call that can be listened to.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use super::disk::{Disk, Sync};

type RawFile = *mut ffi::sqlite3_file;
type OpenDirectory = unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int;

/// The VFS beneath, and its way to open a directory.
struct Unix {
    vfs: *mut ffi::sqlite3_vfs,
    open_directory: OpenDirectory,
}

// SAFETY: SQLite's own VFS is a static that is never freed; its methods may be
// called from any thread.
unsafe impl Send for Unix {}
// SAFETY: as above.
unsafe impl std::marker::Sync for Unix {}

static UNIX: OnceLock<Unix> = OnceLock::new();

fn unix() -> &'static Unix {
    UNIX.get().expect("nothing calls in before `install`")
}

/// What SQLite allocates for an open file: this, and behind it the unix VFS's.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// From `Arc::into_raw`; given back by `close`.
    disk: *const Disk,
    place: usize,
}

/// Where the unix VFS's part begins: aligned for anything.
const REAL: usize = size_of::<File>().next_multiple_of(16);

/// Makes the wrapper SQLite's default VFS in this process.
pub(crate) fn install() {
    UNIX.get_or_init(|| {
        // SAFETY: `vfs_find` hands out SQLite's static, which is copied with
        // its `pAppData`, since that is what its methods read. What is
        // registered is leaked. The system call has the type that os_unix.c
        // casts it to: `int(*)(const char*, int*)`.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(c"unix".as_ptr());
            assert!(!vfs.is_null());
            let name = c"openDirectory".as_ptr();
            let old = ((*vfs).xGetSystemCall.unwrap())(vfs, name).unwrap();
            let open_directory = std::mem::transmute::<unsafe extern "C" fn(), OpenDirectory>(old);
            let new = std::mem::transmute::<OpenDirectory, unsafe extern "C" fn()>(open_dir);
            let set = ((*vfs).xSetSystemCall.unwrap())(vfs, name, Some(new));
            assert_eq!(set, ffi::SQLITE_OK);
            let mut ours = *vfs;
            ours.pNext = std::ptr::null_mut();
            ours.zName = c"power-loss".as_ptr();
            ours.szOsFile += c_int::try_from(REAL).unwrap();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            let registered = ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1);
            assert_eq!(registered, ffi::SQLITE_OK);
            Unix {
                vfs,
                open_directory,
            }
        }
    });
}

/// The path that SQLite names.
///
/// # Safety
/// `name` is null or a C string that outlives the result.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: the caller's word.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
    Some(Path::new(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open_dir(name: *const c_char, fd: *mut c_int) -> c_int {
    // SAFETY: SQLite hands in a file's path, whose directory is meant.
    unsafe {
        let opened = (unix().open_directory)(name, fd);
        if let Some((disk, _)) = path(name).and_then(Disk::of) {
            disk.directory_synced();
        }
        opened
    }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: RawFile,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let vfs = unix().vfs;
    // SAFETY: `file` has `szOsFile` bytes: room for `File` and, from `REAL`
    // on, for the unix VFS's; for the latter alone in any case. Without power
    // `pMethods` stays null, as SQLite demands of an open that fails.
    unsafe {
        let unix_open = (*vfs).xOpen.unwrap();
        let Some((disk, base)) = path(name).and_then(Disk::of) else {
            return unix_open(vfs, name, file, flags, out);
        };
        (*file).pMethods = std::ptr::null();
        if disk.is_off() {
            return ffi::SQLITE_CANTOPEN;
        }
        let opened = unix_open(vfs, name, real(file), flags, out);
        if opened != ffi::SQLITE_OK {
            return opened;
        }
        let Ok(place) = disk.opened(&base) else {
            methods(file).xClose.unwrap()(real(file));
            return ffi::SQLITE_IOERR;
        };
        file.cast::<File>().write(File {
            base: ffi::sqlite3_file { pMethods: &METHODS },
            disk: Arc::into_raw(disk),
            place,
        });
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_dir: c_int,
) -> c_int {
    let vfs = unix().vfs;
    // SAFETY: SQLite's own arguments, handed on.
    unsafe {
        if let Some((disk, base)) = path(name).and_then(Disk::of)
            && disk.delete(&base).is_err()
        {
            return ffi::SQLITE_IOERR_DELETE;
        }
        (*vfs).xDelete.unwrap()(vfs, name, sync_dir)
    }
}

/// The unix VFS's part of an open file.
///
/// # Safety
/// `file` was allocated for this VFS.
unsafe fn real(file: RawFile) -> RawFile {
    // SAFETY: `szOsFile` says so.
    unsafe { file.byte_add(REAL) }
}

/// # Safety
/// `file` is open in the unix VFS.
unsafe fn methods<'a>(file: RawFile) -> &'a ffi::sqlite3_io_methods {
    // SAFETY: an open file's methods are a static of SQLite's.
    unsafe { &*(*real(file)).pMethods }
}

/// # Safety
/// `file` was opened by `open` above and is not closed.
unsafe fn on_disk<'a>(file: RawFile) -> (&'a Disk, usize) {
    // SAFETY: `open` has written a `File`; its `Arc` lives until `close`.
    unsafe {
        let file = &*file.cast::<File>();
        (&*file.disk, file.place)
    }
}

unsafe extern "C" fn close(file: RawFile) -> c_int {
    // SAFETY: the last call with this file; gives back what `open` took.
    unsafe {
        let closed = methods(file).xClose.unwrap()(real(file));
        drop(Arc::from_raw((*file.cast::<File>()).disk));
        closed
    }
}

unsafe extern "C" fn read(file: RawFile, to: *mut c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe {
        if on_disk(file).0.is_off() {
            return ffi::SQLITE_IOERR_READ;
        }
        methods(file).xRead.unwrap()(real(file), to, len, offset)
    }
}

unsafe extern "C" fn write(file: RawFile, from: *const c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite hands in `len` readable bytes.
    unsafe {
        let (disk, place) = on_disk(file);
        let (Ok(size), Ok(at)) = (usize::try_from(len), usize::try_from(offset)) else {
            return ffi::SQLITE_MISUSE;
        };
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), size);
        match disk.write(place, at, bytes) {
            Ok(()) => methods(file).xWrite.unwrap()(real(file), from, len, offset),
            Err(_) => ffi::SQLITE_IOERR_WRITE,
        }
    }
}

unsafe extern "C" fn truncate(file: RawFile, len: i64) -> c_int {
    // SAFETY: SQLite's own arguments, handed on.
    unsafe {
        let (disk, place) = on_disk(file);
        let Ok(size) = usize::try_from(len) else {
            return ffi::SQLITE_MISUSE;
        };
        match disk.truncate(place, size) {
            Ok(()) => methods(file).xTruncate.unwrap()(real(file), len),
            Err(_) => ffi::SQLITE_IOERR_TRUNCATE,
        }
    }
}

unsafe extern "C" fn sync(file: RawFile, flags: c_int) -> c_int {
    // SAFETY: SQLite's own arguments, handed on. The unix VFS may sync the
    // directory too, by `open_dir` above.
    unsafe {
        let (disk, place) = on_disk(file);
        match disk.sync(place) {
            Err(_) => ffi::SQLITE_IOERR_FSYNC,
            Ok(Sync::Lie) => ffi::SQLITE_OK,
            Ok(Sync::Real) => {
                let synced = methods(file).xSync.unwrap()(real(file), flags);
                if synced == ffi::SQLITE_OK {
                    disk.synced(place);
                }
                synced
            }
        }
    }
}

/// Methods that change nothing on the disk are the unix VFS's.
macro_rules! handed_on {
    ($($name:ident = $method:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(unsafe extern "C" fn $name(file: RawFile $(, $arg: $type)*) $(-> $result)? {
            // SAFETY: SQLite's own arguments, handed on.
            unsafe { methods(file).$method.unwrap()(real(file) $(, $arg)*) }
        })*
    };
}

handed_on! {
    file_size = xFileSize(size: *mut i64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved_lock = xCheckReservedLock(out: *mut c_int) -> c_int;
    file_control = xFileControl(op: c_int, arg: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    device_characteristics = xDeviceCharacteristics() -> c_int;
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(offset: c_int, n: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
}

/// Version 2: with shared memory, without memory-mapped reads and writes.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
