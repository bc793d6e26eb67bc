//! A disk in memory that fails on purpose, as far as the contract of [`crate::disk`] lets a disk fail.
//!
//! - Crash at any operation. A power failure then keeps of every unsynced write all, nothing, or any sectors with one
//!   torn at any byte; of every unsynced change of a name, it or nothing. A kill keeps everything, unsynced as it is.
//! - Full disk from any operation on; the first write is cut anywhere.
//! - A sync that fails once and, as on Linux, forgets what it should have written while readers still see it.
//!
//! One seed gives one history.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::disk::{Disk, DiskFile};

const SECTOR: usize = 64;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    NoSpace,
    SyncFails,
}

/// What ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    PowerFailure,
}

/// A small generator; its whole state is the seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

#[derive(Default, Clone)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    fn apply_partly(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let Self::Write(at, data) = self else {
            return if random.below(2) == 0 {
                self.apply(bytes)
            };
        };
        match random.below(4) {
            0 => self.apply(bytes),
            1 => {}
            2 => Self::Write(*at, data[..random.index(data.len() + 1)].to_vec()).apply(bytes),
            _ => {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if random.below(2) == 0 {
                        Self::Write(at + i * SECTOR, sector.to_vec()).apply(bytes);
                    }
                }
            }
        }
    }
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Remove(path) => drop(names.remove(path)),
        }
    }
}

struct World {
    random: Random,
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<NameChange>,
    /// Operations so far that change something.
    operations: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    full: bool,
    held: bool,
    syncs: u64,
}

/// The disk; clones are the same one.
#[derive(Clone)]
pub(super) struct SimDisk {
    world: Arc<(Mutex<World>, Condvar)>,
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        let world = World {
            random: Random::new(seed),
            inodes: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            unsynced_names: Vec::new(),
            operations: 0,
            fault: None,
            dead: false,
            full: false,
            held: false,
            syncs: 0,
        };
        Self { world: Arc::new((Mutex::new(world), Condvar::new())) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.0.lock().unwrap()
    }

    /// Plans a fault at the n-th operation from now, counted from 0.
    pub(super) fn fail_at(&self, operation: u64, fault: Fault) {
        let mut world = self.world();
        world.fault = Some((world.operations + operation, fault));
    }

    pub(super) fn operations(&self) -> u64 {
        self.world().operations
    }

    pub(super) fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// While held, a sync of a file waits.
    pub(super) fn hold_syncs(&self, held: bool) {
        self.world().held = held;
        self.world.1.notify_all();
    }

    /// Ends every process on the disk, repairs and empties it as far as it was full, and starts it again.
    pub(super) fn restart(&self, end: End) {
        let mut guard = self.world();
        let world = &mut *guard;
        world.fault = None;
        world.dead = false;
        world.full = false;
        if end == End::Kill {
            return;
        }
        for inode in &mut world.inodes {
            for change in inode.unsynced.drain(..) {
                change.apply_partly(&mut inode.durable, &mut world.random);
            }
            inode.live = inode.durable.clone();
        }
        for change in world.unsynced_names.drain(..) {
            if world.random.below(2) == 0 {
                change.apply(&mut world.durable_names);
            }
        }
        world.names = world.durable_names.clone();
    }

    /// Names and bytes of all files.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = self.world();
        world.names.iter().map(|(path, inode)| (path.clone(), world.inodes[*inode].live.clone())).collect()
    }

    /// Changes bytes of a file behind everyone's back.
    pub(super) fn damage(&self, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        damage(&mut inode.live);
        inode.durable = inode.live.clone();
        inode.unsynced.clear();
    }
}

fn dead() -> io::Error {
    io::Error::other("the machine is off")
}

impl World {
    /// Counts an operation; the fault that strikes it.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(dead());
        }
        let strikes = self.fault.filter(|(at, _)| *at == self.operations).map(|(_, fault)| fault);
        self.operations += 1;
        match strikes {
            Some(Fault::Crash) => self.dead = true,
            Some(Fault::NoSpace) => self.full = true,
            Some(Fault::SyncFails) | None => {}
        }
        Ok(strikes)
    }

    fn end(&self) -> io::Result<()> {
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    fn rename_all(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn inode_of(&self, path: &Path) -> io::Result<usize> {
        if self.dead {
            return Err(dead());
        }
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl Disk for SimDisk {
    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        world.end()?;
        Ok(world.names.keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.world().inode_of(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.begin()?;
        if world.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.rename_all(NameChange::Set(path.to_owned(), inode));
        world.end()?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.inode_of(from)?;
        world.begin()?;
        world.rename_all(NameChange::Move(from.to_owned(), to.to_owned(), inode));
        world.end()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.inode_of(path)?;
        world.begin()?;
        world.rename_all(NameChange::Remove(path.to_owned()));
        world.end()
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        self.world().inode_of(path)?;
        // It has no clock: every file is old.
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        if let Some(fault) = world.begin()? {
            return Err(io::Error::other(format!("{fault:?}")));
        }
        world.unsynced_names.clear();
        world.durable_names = world.names.clone();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let world = self.disk.world();
        world.end()?;
        let live = &world.inodes[self.inode].live;
        let at = usize::try_from(at).unwrap();
        let bytes = live.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut guard = self.disk.world();
        let world = &mut *guard;
        world.begin()?;
        let inode = &mut world.inodes[self.inode];
        let at = usize::try_from(at).unwrap();
        let grows = at + bytes.len() > inode.live.len();
        let fits = if world.full && grows { world.random.index(bytes.len()) } else { bytes.len() };
        let change = Change::Write(at, bytes[..fits].to_vec());
        change.apply(&mut inode.live);
        inode.unsynced.push(change);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.end()
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.disk.world();
        world.end()?;
        Ok(world.inodes[self.inode].live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.begin()?;
        let change = Change::SetLen(usize::try_from(len).unwrap());
        let inode = &mut world.inodes[self.inode];
        change.apply(&mut inode.live);
        inode.unsynced.push(change);
        world.end()
    }

    fn sync(&self) -> io::Result<()> {
        let world = self.disk.world();
        let mut guard = self.disk.world.1.wait_while(world, |world| world.held).unwrap();
        let world = &mut *guard;
        world.syncs += 1;
        let fault = world.begin()?;
        let inode = &mut world.inodes[self.inode];
        match fault {
            Some(Fault::SyncFails) => inode.unsynced.clear(),
            Some(Fault::Crash | Fault::NoSpace) => {}
            None => {
                for change in inode.unsynced.drain(..) {
                    change.apply(&mut inode.durable);
                }
                return Ok(());
            }
        }
        Err(io::Error::other(format!("{fault:?}")))
    }
}
