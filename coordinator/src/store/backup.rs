//! Copies of the database, keys included: made while the coordinator runs, restored while it does not.

use super::{StateDir, Store, StoreError, connect, files, int, schema};
use meshd_proto::UnixSeconds;
use sqlx::{Row, SqliteConnection};
use std::fs;
use std::path::{Path, PathBuf};

impl Store {
    /// Writes a copy of everything, keys included, to a new file of mode 0600.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub async fn backup(&mut self, path: &Path) -> Result<(), StoreError> {
        copy(&mut self.conn, path).await
    }
}

impl Store {
    /// The same copy as bytes, by way of a file in the state directory that is gone afterwards.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub async fn backup_bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        let path = self.dir.path().join(".backup.db");
        remove_database(&path)?;
        copy(&mut self.conn, &path).await?;
        let bytes = fs::read(&path).map_err(files::failed("cannot read", &path))?;
        remove(&path)?;
        Ok(bytes)
    }
}

/// Copies the database as of now into a new private file and puts it on the disk.
pub(super) async fn copy(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    // Made by us first, so that it is private from its first byte; SQLite fills an empty file.
    drop(files::create_new_private(path)?);
    let text = path.to_str().ok_or_else(|| {
        files::failed("cannot use the name of", path)(std::io::Error::other("it is not valid UTF-8"))
    })?;
    let result = sqlx::query("VACUUM INTO ?").bind(text).execute(conn).await;
    if let Err(e) = result {
        let _ = fs::remove_file(path);
        return Err(e.into());
    }
    files::sync(path)
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new life of the log.
    pub epoch: u64,
    /// Where the database that was there before went, when there was one.
    pub previous: Option<PathBuf>,
}

/// Puts a backup in the place of the database. A new epoch tells every node to forget versions that the
/// backup has never seen. The coordinator must not run: `dir` holds its lock.
///
/// # Errors
/// When the file is no backup or cannot be copied; the present database stays as it is then.
pub async fn restore(dir: &StateDir, from: &Path, at: UnixSeconds) -> Result<Restored, StoreError> {
    let staged = dir.path().join(".restore.db");
    remove_database(&staged)?;
    files::create_private(&staged)?;
    fs::copy(from, &staged).map_err(files::failed("cannot read", from))?;
    let not_ours = |_| StoreError::NotABackup(from.to_owned());

    let database = dir.database();
    let previous_epoch = if database.exists() { epoch_and_fold(&database).await? } else { 0 };
    let mut conn = connect(&staged).await.map_err(not_ours)?;
    let check = sqlx::query("PRAGMA integrity_check").fetch_one(&mut conn).await;
    let sound = check.and_then(|row| row.try_get::<String, _>(0)).is_ok_and(|text| text == "ok");
    let format = if sound { schema::format_of(&mut conn).await? } else { 0 };
    if format == 0 {
        remove_database(&staged)?;
        return Err(StoreError::NotABackup(from.to_owned()));
    }
    schema::migrate(&mut conn, dir, at).await?;
    let epoch_of_backup = epoch(&mut conn).await.map_err(not_ours)?;
    // Above both, and by the clock above every backup restored elsewhere in between.
    let epoch = (at.0).max(epoch_of_backup + 1).max(previous_epoch + 1);
    sqlx::query("UPDATE mesh SET epoch = ? WHERE id = 1").bind(int(epoch)).execute(&mut conn).await?;
    sqlx::Connection::close(conn).await?;
    files::sync(&staged)?;

    let mut previous = None;
    if database.exists() {
        let kept = dir.backups()?.join(format!("before-restore-{}.db", at.0));
        fs::hard_link(&database, &kept).map_err(files::failed("cannot keep", &kept))?;
        previous = Some(kept);
        // Folded in above: a stale WAL beside another database would be replayed into it.
        remove_sidecars(&database)?;
    }
    fs::rename(&staged, &database).map_err(files::failed("cannot replace", &database))?;
    remove_sidecars(&staged)?;
    files::sync(&database)?;
    Ok(Restored { epoch, previous })
}

async fn epoch_and_fold(path: &Path) -> Result<u64, StoreError> {
    let mut conn = connect(path).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await?;
    let found = epoch(&mut conn).await.unwrap_or(0);
    sqlx::Connection::close(conn).await?;
    files::sync(path)?;
    Ok(found)
}

async fn epoch(conn: &mut SqliteConnection) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT epoch FROM mesh WHERE id = 1").fetch_one(conn).await?;
    Ok(super::uint(row.try_get(0)?))
}

fn remove_database(path: &Path) -> Result<(), StoreError> {
    remove(path)?;
    remove_sidecars(path)
}

fn remove_sidecars(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        remove(Path::new(&name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(files::failed("cannot remove", path)(e)),
        _ => Ok(()),
    }
}
