package fleet

import (
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// files is the file system of one host: a tree in memory, with owners and modes
// (for the owner and for all others; there are no groups and no links).
//
// Every call names the process that asks by its context, and fails once that is
// cancelled: what was running when a host lost its power changes nothing more.
//
// What a host is installed with is one tree for all hosts. A host has the nodes
// of its own that it has changed, and those above them.
type files struct {
	now  func() time.Time
	host *Host // nil where it does not matter

	mu   sync.Mutex
	root *node
}

// A node is a file or a directory.
type node struct {
	of      *files // who may change it
	mode    fs.FileMode
	uid     int
	changed time.Time
	text    []byte             // of a file; replaced, never changed in place
	made    func(*Host) []byte // of a file whose text is made when it is read (/proc)
	entries map[string]*node   // of a directory
	locked  *lock              // by flock
}

// who asks for something in the file system.
type who struct {
	ctx   context.Context
	uid   int
	umask fs.FileMode
}

func newFiles(now func() time.Time) *files {
	f := &files{now: now}
	f.root = f.newDir(0o755, 0)
	return f
}

func (f *files) newDir(perm fs.FileMode, uid int) *node {
	return &node{of: f, mode: fs.ModeDir | perm, uid: uid, changed: f.now(), entries: map[string]*node{}}
}

// sharing gives a host's file system, which is like f until it is changed. f
// must not be changed any more.
func (f *files) sharing(h *Host) *files { return &files{now: f.now, host: h, root: f.root} }

// mine gives the node that f may change for one that it may share.
func (f *files) mine(n *node) *node {
	if n.of == f {
		return n
	}
	own := *n
	own.of, own.entries = f, maps.Clone(n.entries)
	return &own
}

func (n *node) isDir() bool { return n.mode.IsDir() }

// textOf is the text of a file.
func (f *files) textOf(n *node) []byte {
	if n.made != nil {
		return n.made(f.host)
	}
	return n.text
}

// allows says whether a user may do what the bits say: 4 read, 2 write, 1 search or execute.
func (n *node) allows(uid int, bits fs.FileMode) bool {
	switch uid {
	case 0:
		return bits&1 == 0 || n.isDir() || n.mode&0o111 != 0
	case n.uid:
		return n.mode>>6&bits == bits
	default:
		return n.mode&bits == bits
	}
}

// A purpose is what find is asked for: to look at what it finds, or to change it.
type purpose bool

const (
	look   purpose = false
	change purpose = true
)

// find follows an absolute path to the node and the directory it is in, or would be in.
func (f *files) find(w who, why purpose, op, name string) (parent, n *node, err error) {
	fail := func(err error) (*node, *node, error) {
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if err := w.ctx.Err(); err != nil {
		return fail(err)
	}
	if why == change {
		f.root = f.mine(f.root)
	}
	n = f.root
	rest := strings.TrimPrefix(path.Clean(name), "/")
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch {
		case n == nil:
			return fail(syscall.ENOENT)
		case !n.isDir():
			return fail(syscall.ENOTDIR)
		case !n.allows(w.uid, 1):
			return fail(syscall.EACCES)
		}
		parent, n = n, n.entries[part]
		if n != nil && why == change {
			n = f.mine(n)
			parent.entries[part] = n
		}
	}
	if n != nil && !n.isDir() && strings.HasSuffix(name, "/") {
		return fail(syscall.ENOTDIR)
	}
	return parent, n, nil
}

// existing is find for what must be there and must allow what the bits say.
func (f *files) existing(w who, why purpose, op, name string, bits fs.FileMode) (parent, n *node, err error) {
	parent, n, err = f.find(w, why, op, name)
	switch {
	case err != nil:
		return nil, nil, err
	case n == nil:
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
	case !n.allows(w.uid, bits):
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: syscall.EACCES}
	}
	return parent, n, nil
}

// read gives the text of a file; it must not be changed.
func (f *files) read(w who, name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.existing(w, look, "open", name, 4)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	return f.textOf(n), nil
}

// create opens a file for writing; it is made if it is not there.
func (f *files) create(w who, name string, flag int, perm fs.FileMode) (*writer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.make(w, name, flag, perm)
	if err != nil {
		return nil, err
	}
	if flag&os.O_TRUNC != 0 {
		n.text, n.changed = nil, f.now()
	}
	return &writer{files: f, ctx: w.ctx, node: n, end: flag&os.O_APPEND != 0}, nil
}

func (f *files) make(w who, name string, flag int, perm fs.FileMode) (*node, error) {
	parent, n, err := f.find(w, change, "open", name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*node, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case n != nil && flag&os.O_EXCL != 0:
		return fail(syscall.EEXIST)
	case n != nil && n.isDir():
		return fail(syscall.EISDIR)
	case n != nil && (n.made != nil || !n.allows(w.uid, 2)):
		return fail(syscall.EACCES)
	case n != nil:
		return n, nil
	case flag&os.O_CREATE == 0:
		return fail(syscall.ENOENT)
	case !parent.allows(w.uid, 2):
		return fail(syscall.EACCES)
	}
	n = &node{of: f, mode: perm &^ w.umask, uid: w.uid, changed: f.now()}
	parent.entries[path.Base(path.Clean(name))] = n
	return n, nil
}

// mkdir makes a directory; with parents also those above it, and then it is no
// error if it is there.
func (f *files) mkdir(w who, name string, perm fs.FileMode, parents bool) error {
	name = path.Clean(name)
	if parents && name != "/" {
		if info, err := f.stat(w, name); err == nil && info.IsDir() {
			return nil
		}
		if err := f.mkdir(w, path.Dir(name), 0o777&^w.umask, true); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	parent, n, err := f.find(w, change, "mkdir", name)
	switch {
	case err != nil:
		return err
	case n != nil && n.isDir() && parents:
		return nil
	case n != nil:
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.EEXIST}
	case !parent.allows(w.uid, 2):
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.EACCES}
	}
	parent.entries[path.Base(name)] = f.newDir(perm, w.uid)
	return nil
}

// remove takes away a file, or a directory: an empty one, or, with all, any.
func (f *files) remove(w who, name string, all bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	parent, n, err := f.existing(w, change, "remove", name, 0)
	switch {
	case err != nil:
		return err
	case parent == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EBUSY}
	case n.isDir() && !all && len(n.entries) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	case !parent.allows(w.uid, 3):
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EACCES}
	}
	delete(parent.entries, path.Base(path.Clean(name)))
	return nil
}

// rename is rename(2): it replaces a file, or an empty directory by a directory.
func (f *files) rename(w who, from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	source, n, err := f.existing(w, change, "rename", from, 0)
	if err != nil {
		return err
	}
	target, old, err := f.find(w, change, "rename", to)
	if err != nil {
		return err
	}
	fail := func(err error) error { return &os.LinkError{Op: "rename", Old: from, New: to, Err: err} }
	switch {
	case source == nil || target == nil:
		return fail(syscall.EBUSY)
	case !source.allows(w.uid, 3) || !target.allows(w.uid, 3):
		return fail(syscall.EACCES)
	case n == old:
		return nil
	case n.isDir() && strings.HasPrefix(path.Clean(to)+"/", path.Clean(from)+"/"):
		return fail(syscall.EINVAL)
	case old != nil && old.isDir() && !n.isDir():
		return fail(syscall.EISDIR)
	case old != nil && !old.isDir() && n.isDir():
		return fail(syscall.ENOTDIR)
	case old != nil && len(old.entries) > 0:
		return fail(syscall.ENOTEMPTY)
	}
	delete(source.entries, path.Base(path.Clean(from)))
	target.entries[path.Base(path.Clean(to))] = n
	return nil
}

// chmod sets the permission bits of what is the asker's.
func (f *files) chmod(w who, name string, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.existing(w, change, "chmod", name, 0)
	if err != nil {
		return err
	}
	if w.uid != 0 && w.uid != n.uid {
		return &fs.PathError{Op: "chmod", Path: name, Err: syscall.EPERM}
	}
	n.mode = n.mode.Type() | perm
	return nil
}

// touch sets the time of a file to now; it is made if it is not there.
func (f *files) touch(w who, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.find(w, change, "touch", name)
	if err != nil {
		return err
	}
	if n == nil {
		if n, err = f.make(w, name, os.O_CREATE, 0o666); err != nil {
			return err
		}
	}
	n.changed = f.now()
	return nil
}

// access says whether the asker may do what the bits say.
func (f *files) access(w who, name string, bits fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _, err := f.existing(w, look, "access", name, bits)
	return err
}

// stat describes what is there.
func (f *files) stat(w who, name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.existing(w, look, "stat", name, 0)
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(path.Clean(name))), nil
}

// list gives the entries of a directory by name.
func (f *files) list(w who, name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.existing(w, look, "open", name, 4)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, &fs.PathError{Op: "readdirent", Path: name, Err: syscall.ENOTDIR}
	}
	entries := make([]fs.DirEntry, 0, len(n.entries))
	for _, entry := range slices.Sorted(maps.Keys(n.entries)) {
		entries = append(entries, fs.FileInfoToDirEntry(n.entries[entry].info(entry)))
	}
	return entries, nil
}

// lock gives the lock of a file for flock; an empty file is made if it is not there.
func (f *files) lock(w who, name string) (*lock, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.find(w, change, "open", name)
	if err != nil {
		return nil, err
	}
	if n == nil {
		if n, err = f.make(w, name, os.O_CREATE, 0o666); err != nil {
			return nil, err
		}
	} else if !n.allows(w.uid, 4) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	if n.locked == nil {
		n.locked = newLock()
	}
	return n.locked, nil
}

// cutPower calls cancel, which ends all processes, and loses what is in memory
// only: /run and /tmp are as they were installed, and nothing is locked.
func (f *files) cutPower(cancel context.CancelFunc, installed *files) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cancel()
	f.root = f.mine(f.root)
	for _, name := range []string{"run", "tmp"} {
		f.root.entries[name] = installed.root.entries[name]
	}
	var unlock func(*node)
	unlock = func(n *node) {
		if n.of != f {
			return
		}
		n.locked = nil
		for _, entry := range n.entries {
			unlock(entry)
		}
	}
	unlock(f.root)
}

// put lays down a file, or a directory if text is nil, as root.
func (f *files) put(name string, perm fs.FileMode, text func(*Host) []byte) {
	w := who{ctx: context.Background(), umask: 0o022}
	if text == nil {
		f.mkdir(w, name, perm, true)
		return
	}
	f.mkdir(w, path.Dir(name), 0o755, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, err := f.make(w, name, os.O_CREATE, perm); err == nil {
		n.made = text
	}
}

// own gives what is at a path to a user.
func (f *files) own(name string, uid int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, n, err := f.find(who{ctx: context.Background()}, change, "chown", name); err == nil && n != nil {
		n.uid = uid
	}
}

// A writer is a file opened for writing.
type writer struct {
	files  *files
	ctx    context.Context
	node   *node
	offset int
	end    bool // always write at the end
}

func (w *writer) Write(p []byte) (int, error) {
	w.files.mu.Lock()
	defer w.files.mu.Unlock()
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	text := w.node.text
	if w.end || w.offset > len(text) {
		w.offset = len(text)
	}
	if w.offset < len(text) { // readers may still hold what is there
		text = slices.Concat(text[:w.offset], p, text[min(w.offset+len(p), len(text)):])
	} else {
		text = append(text, p...) // beyond what readers hold
	}
	w.offset += len(p)
	w.node.text, w.node.changed = text, w.files.now()
	return len(p), nil
}

func (*writer) Read([]byte) (int, error) { return 0, io.EOF }
func (*writer) Close() error             { return nil }

// info describes a node, for package fs.
type info struct {
	name string
	node node
	size int64
}

func (n *node) info(name string) info { return info{name, *n, int64(len(n.text))} }

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.node.mode }
func (i info) ModTime() time.Time { return i.node.changed }
func (i info) IsDir() bool        { return i.node.isDir() }
func (i info) Sys() any           { return &syscall.Stat_t{Uid: uint32(i.node.uid)} }

// A lock is what flock holds. A lock is held by all processes that have its
// file open, so it is counted.
type lock struct{ free chan struct{} }

func newLock() *lock {
	l := &lock{free: make(chan struct{}, 1)}
	l.free <- struct{}{}
	return l
}

// A held lock is free when its last holder has released it; from then on add and
// release change nothing.
type held struct {
	lock    *lock
	mu      sync.Mutex
	holders int
}

func (h *held) add() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holders > 0 {
		h.holders++
	}
}

func (h *held) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holders == 0 {
		return
	}
	if h.holders--; h.holders == 0 {
		h.lock.free <- struct{}{}
	}
}
