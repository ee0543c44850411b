package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/adapters/transparency"
	"commissaire/domain"
	"commissaire/domain/event"
)

func backupCommand() *cobra.Command {
	var file, from, format string
	var b backup
	cmd := &cobra.Command{
		Use: "backup TARGET", Short: "Copy the log of a store, and its credentials, also while a service uses it", Args: cobra.ExactArgs(1),
		Long: `Copy the log of a store sqlite:DIR into a new directory, also while a service uses
it, which is kept waiting in nothing. The copy is the log at one position: all that a
client was answered before the backup began is in it.

With --credentials the credentials go into another new directory. They stay sealed, and
the master key is in neither: keep it elsewhere still. The two must lie apart, because a
log cannot forget and credentials must: who removes a host wants its key gone from the
backups in due time, and the history kept.

Both are verified when they are there: SQLite finds no damage, every event can be read,
revisions have no gap, and each credential opens with the master key, where one is
configured. The position, the number of events and the root of the Merkle tree over
them, which a signed checkpoint has too, are printed and kept beside the copy with its
SHA-256. events show, export and verify read a backup like a store.

Each directory is there whole or not at all. What hosts printed, the tree, the
configuration and the users are not in a backup. A log in EventStoreDB is backed up by
that, or by events export.`,
		Example: `  commissaire backup /backup/log/2026-11-28 --credentials /backup-keys/2026-11-28
  commissaire events verify --store sqlite:/backup/log/2026-11-28`,
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "configuration file; - is standard input (default "+defaultConfigFile+")")
	flags.StringVar(&from, "store", "", "the store: sqlite:DIR (default the configured one)")
	flags.StringVar(&b.credentials, "credentials", "", "new directory for the credentials, apart from TARGET (default they are not copied)")
	flags.String("credentials.master-key", "", "file:PATH, env:NAME or exec:COMMAND")
	flags.StringVarP(&format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		config, err := ofStore(cmd, file, format)
		if err != nil {
			return err
		}
		b.store, b.masterKey, b.target = config.storeName(), config.Credentials.MasterKey, arguments[0]
		if from != "" {
			b.store = storeName{log: from}
		}
		b.progress = newProgress(cmd.ErrOrStderr())
		done, err := b.run(cmd.Context())
		b.progress.end()
		switch {
		case err != nil && cmd.Context().Err() != nil:
			return errors.New("backup: interrupted; nothing was made")
		case err != nil:
			return fmt.Errorf("backup: %w", err)
		}
		return done.print(cmd.OutOrStdout(), format, "in "+b.target, "in "+b.credentials)
	}
	return cmd
}

// ofStore is the configuration of a command that copies a store.
func ofStore(cmd *cobra.Command, file, format string) (Config, error) {
	if format != "text" && format != "json" {
		return Config{}, fmt.Errorf("there is no output %q: use text or json", format)
	}
	given := map[string]any{}
	if flags := cmd.Flags(); flags.Changed("credentials.master-key") {
		given["credentials.master-key"], _ = flags.GetString("credentials.master-key")
	}
	return loadConfig(file, cmd.InOrStdin(), environ(), given, false)
}

// backup copies a store.
type backup struct {
	store               storeName
	target, credentials string // directories that are made; "": credentials are not copied
	masterKey           string // "": credentials are not opened
	progress            *progress
}

// logState says what a log is.
type logState struct {
	Events   uint64         `json:"events"`
	Position event.Position `json:"position"`
	Root     string         `json:"root"` // of the Merkle tree, in base64
}

func (s logState) String() string {
	return fmt.Sprintf("%d events, up to position %d, root %s", s.Events, s.Position, s.Root)
}

// copied is what a backup or a restore found and did.
type copied struct {
	logState
	Size        int64                 `json:"size"`                // bytes of the log
	Credentials *int                  `json:"credentials"`         // nil: they were not copied
	Opened      bool                  `json:"credentials_opened"`  // with the master key, each
	Missing     []domain.CredentialID `json:"credentials_missing"` // that the log names
}

func (c copied) print(out io.Writer, format, log, secrets string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(c)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %d bytes: %s\n", c.logState, c.Size, log)
	switch {
	case c.Credentials == nil:
	case c.Opened:
		fmt.Fprintf(&text, "%d credentials, each was opened with the master key: %s\n", *c.Credentials, secrets)
	default:
		fmt.Fprintf(&text, "%d credentials, none was opened, as no master key is configured: %s\n", *c.Credentials, secrets)
	}
	if len(c.Missing) > 0 {
		fmt.Fprintf(&text, "%d credentials that the log names are not there; a host or container manager that has one must be removed and added again with its key:\n", len(c.Missing))
		for _, id := range c.Missing {
			fmt.Fprintf(&text, "  %s\n", id)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// check refuses what cannot be backed up, and makes the targets' names absolute.
func (b *backup) check() error {
	switch {
	case b.store.shared():
		return errors.New("a log in EventStoreDB is backed up as the manual of that says, and after it the keys (see the README), or with commissaire events export")
	case b.store.kind() != "sqlite":
		return noSuchStore(b.store)
	}
	if err := b.store.check("--store", "credentials.keys"); err != nil {
		return err
	}
	dir, err := filepath.Abs(b.store.dir())
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return fmt.Errorf("--store: %w", err)
	}
	targets := []*string{&b.target}
	if b.credentials != "" {
		targets = append(targets, &b.credentials)
	}
	for _, target := range targets {
		if *target, err = newPlace(*target); err != nil {
			return err
		}
		if within(*target, dir) {
			return fmt.Errorf("%s lies in the store's directory %s: a backup goes elsewhere, best on another disk", *target, b.store.dir())
		}
	}
	if b.credentials != "" && (within(b.credentials, b.target) || within(b.target, b.credentials)) {
		return errors.New("--credentials must lie apart from the log, each in a directory of its own: a log is kept for ever, " +
			"and a copy of it that has the keys beside it forgets none of a host that is removed")
	}
	return nil
}

// newPlace is the full path, without links, of what does not exist yet in a
// directory that does.
func newPlace(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("%s cannot be made: %w", path, err)
	}
	path = filepath.Join(parent, filepath.Base(path))
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s is there already: a backup goes into a new directory", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path, nil
}

// within tells whether a path is a directory or lies in it.
func within(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

func (b *backup) run(ctx context.Context) (done copied, err error) {
	if err := b.check(); err != nil {
		return done, err
	}
	made := time.Now().UTC()
	log, err := begin(b.target)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, log.discard()) }()
	var before, sealed credentials.Sealed
	if b.credentials != "" {
		if before, err = credentials.ReadSealed(ctx, b.store.dir()); err != nil {
			return done, err
		}
	}
	shown := log.watch(sqlite.File, b.progress.count("bytes copied"))
	err = sqlite.Backup(ctx, b.store.dir(), log.dir)
	shown()
	if err != nil {
		return done, err
	}
	if b.credentials != "" {
		if sealed, err = credentials.ReadSealed(ctx, b.store.dir()); err != nil {
			return done, err
		}
	}
	state, named, err := examine(ctx, log.dir, b.progress.count("events verified"))
	if err != nil {
		return done, err
	}
	done = copied{logState: state, Missing: []domain.CredentialID{}}
	if b.credentials != "" {
		// A credential is stored before the log names it, so that one that is not
		// here was destroyed since: the log in hand has its host still.
		for _, id := range named {
			if !sealed.Has(id) && before.Has(id) {
				sealed[id] = before[id]
			}
		}
		done.Missing = missing(named, sealed.Has)
		if err := b.keep(ctx, sealed, made, &done); err != nil {
			return done, err
		}
	}
	if done.Size, err = log.finish(ctx, manifest{Of: ofLog, Made: made, logState: state}); err != nil && b.credentials != "" {
		err = errors.Join(err, os.RemoveAll(b.credentials)) // it was made just now
	}
	return done, err
}

// keep makes the backup of credentials.
func (b *backup) keep(ctx context.Context, sealed credentials.Sealed, made time.Time, done *copied) (err error) {
	var master []byte
	if b.masterKey != "" {
		if master, err = credentials.MasterKey(ctx, b.masterKey); err != nil {
			return err
		}
	}
	to, err := begin(b.credentials)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.discard()) }()
	if err := sealed.Write(ctx, to.dir); err != nil {
		return err
	}
	n := sealed.Len()
	if master != nil {
		ids, err := opened(ctx, to.dir, master, b.progress.count("credentials opened"))
		if err != nil {
			return err
		}
		if len(ids) != n {
			return fmt.Errorf("the copy has %d credentials of %d", len(ids), n)
		}
	}
	done.Credentials, done.Opened = &n, master != nil
	_, err = to.finish(ctx, manifest{Of: ofCredentials, Made: made, Credentials: n})
	return err
}

// examine reads a copy of a log to its end and returns what it is, and which
// credentials it names of hosts and container managers that are there. A copy in
// which anything is wrong is an error.
func examine(ctx context.Context, dir string, count func(int)) (state logState, named []domain.CredentialID, err error) {
	reader, err := sqlite.OpenBackup(ctx, dir)
	if err != nil {
		return state, nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	if err := reader.Check(ctx); err != nil {
		return state, nil, err
	}
	log := &decoded{feed: reader, names: map[string]domain.CredentialID{}}
	report, err := transparency.Verify(ctx, log, nil, nil, count)
	if err != nil {
		return state, nil, err
	}
	if err := report.Err("the log"); err != nil {
		return state, nil, err
	}
	for _, id := range log.names {
		named = append(named, id)
	}
	return logState{report.Events, report.Last, base64.StdEncoding.EncodeToString(report.Root)}, named, nil
}

// decoded is a log, and what its events name as they are read.
type decoded struct {
	feed  eventlog.Feed
	names map[string]domain.CredentialID // by the id of the host or container manager that has it
}

// Follow implements eventlog.Feed. An event that cannot be decoded names nothing.
func (d *decoded) Follow(ctx context.Context, after event.Position) iter.Seq2[[]eventlog.Raw, error] {
	return func(yield func([]eventlog.Raw, error) bool) {
		for batch, err := range d.feed.Follow(ctx, after) {
			for _, raw := range batch {
				if r, err := eventlog.Decode(raw); err == nil {
					d.apply(r.Event)
				}
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}

// apply notes the credential that an event names. Only events of the roster name any.
func (d *decoded) apply(e event.Event) {
	roster, ok := e.(event.RosterEvent)
	if !ok {
		return
	}
	switch e := roster.(type) {
	case event.HostAdded:
		if e.Credential != "" {
			d.names[string(e.HostID)] = e.Credential
		}
	case event.HostRemoved:
		delete(d.names, string(e.HostID))
	case event.ContainerManagerDefined:
		if e.Credential != "" {
			d.names[string(e.ManagerID)] = e.Credential
		}
	case event.ContainerManagerRemoved:
		delete(d.names, string(e.ManagerID))
	case event.ClusterCreated, event.ClusterReconfigured, event.ClusterDeleted, event.HostJoined, event.HostLeft,
		event.NetworkDefined, event.NetworkRemoved, event.HostTaken, event.HostReleased, event.TermBegun,
		event.OperationStarted, event.OperationCompleted, event.OperationAborted:
	}
}

// missing are those that are named and not there, sorted.
func missing(named []domain.CredentialID, has func(domain.CredentialID) bool) []domain.CredentialID {
	all := []domain.CredentialID{}
	for _, id := range named {
		if !has(id) {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

// opened opens each credential of a copy with the master key, and returns which
// there are.
func opened(ctx context.Context, dir string, master []byte, count func(int)) (all map[domain.CredentialID]time.Time, err error) {
	store, err := credentials.OpenBackup(ctx, dir, master)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if all, err = store.List(ctx); err != nil {
		return nil, err
	}
	n := 0
	for id := range all {
		if _, err := store.Read(ctx, id); err != nil {
			return nil, err
		}
		n++
		count(n)
	}
	return all, nil
}

// manifestName is the file beside a copy that says what the copy is.
const manifestName = "backup.json"

// What a manifest is of.
const (
	ofLog         = "log"
	ofCredentials = "credentials"
)

// files are what is copied, by what that is.
var files = map[string]string{ofLog: sqlite.File, ofCredentials: credentials.File}

// manifest says what a copy is, so that it shows when it was damaged.
type manifest struct {
	Of      string    `json:"of"`
	Made    time.Time `json:"made"` // when the backup began
	Version string    `json:"version"`
	Size    int64     `json:"size"` // bytes
	SHA256  string    `json:"sha256"`
	logState
	Credentials int `json:"credentials"`
}

// isBackup tells whether a directory is a backup.
func isBackup(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, manifestName))
	return err == nil
}

// unfinished is a directory that is being made, under another name beside its own.
type unfinished struct {
	dir    string // "": it is finished
	target string
}

func begin(target string) (*unfinished, error) {
	dir, err := os.MkdirTemp(filepath.Dir(target), "."+filepath.Base(target)+".unfinished-") // 0700
	if err != nil {
		return nil, err
	}
	return &unfinished{dir, target}, nil
}

// watch shows how large a file is that grows there, until it is stopped.
func (u *unfinished) watch(name string, count func(int)) (stop func()) {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ending:
				return
			}
			if info, err := os.Stat(filepath.Join(u.dir, name)); err == nil {
				count(int(info.Size()))
			}
		}
	}()
	return func() { close(ending); <-ended }
}

// finish adds what the manifest is to say, and gives the directory its name. What
// is in it is durable already.
func (u *unfinished) finish(ctx context.Context, m manifest) (size int64, err error) {
	m.Version = version
	if m.Size, m.SHA256, err = digest(ctx, filepath.Join(u.dir, files[m.Of])); err != nil {
		return 0, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return 0, err
	}
	path := filepath.Join(u.dir, manifestName)
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return 0, err
	}
	if err := errors.Join(syncPath(path), syncPath(u.dir), ctx.Err()); err != nil {
		return 0, err
	}
	if _, err := os.Lstat(u.target); err == nil { // an empty directory would be replaced
		return 0, fmt.Errorf("%s was made meanwhile", u.target)
	}
	if err := os.Rename(u.dir, u.target); err != nil {
		return 0, err
	}
	u.dir = ""
	return m.Size, syncPath(filepath.Dir(u.target))
}

// discard removes what is not finished.
func (u *unfinished) discard() error {
	if u.dir == "" {
		return nil
	}
	return os.RemoveAll(u.dir)
}

// syncPath makes a file durable, or the names that a directory has.
func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// digest is how long a file is, and its SHA-256.
func digest(ctx context.Context, path string) (size int64, sum string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	hash := sha256.New()
	size, err = io.Copy(hash, reading{ctx, file})
	return size, hex.EncodeToString(hash.Sum(nil)), err
}

// reading is a reader that ends with an error when ctx does.
type reading struct {
	ctx context.Context
	io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
