package transparency

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

// Tree is the tree over a log, in a directory: every node (nodes: 32 bytes each,
// a node after its children), where each leaf's event is (positions: 8 bytes each,
// big-endian), and how much of them counts (state). It has nothing that the log has
// not, so what is damaged or behind is made anew from that.
//
// All methods may be called at once from any goroutine.
type Tree struct {
	dir              string
	nodes, positions *os.File

	mu    sync.RWMutex
	edge  *compact.Range // its right edge
	last  event.Position
	saved uint64
}

type state struct {
	Size     uint64         `json:"size"`
	Root     []byte         `json:"root"`
	Position event.Position `json:"position"` // of the last leaf's event
}

// files are the tree's, in its directory.
const (
	nodesFile     = "nodes"
	positionsFile = "positions"
	stateFile     = "state"
)

// OpenTree opens the tree in a directory, which is made where there is none. What
// is not as it was saved is an empty tree; why is said.
func OpenTree(dir string) (t *Tree, discarded, err error) {
	fail := func(err error) (*Tree, error, error) {
		return nil, nil, fmt.Errorf("open the tree in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	t = &Tree{dir: dir}
	for name, file := range map[string]**os.File{nodesFile: &t.nodes, positionsFile: &t.positions} {
		if *file, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return fail(errors.Join(err, t.close()))
		}
	}
	if err := t.load(); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			discarded = err
		}
		t.edge, t.last, t.saved = ranges.NewEmptyRange(0), 0, 0
	}
	return t, discarded, nil
}

// ReadTree opens a tree that another process may be using, to read what is saved of
// it. Where there is none, the error is fs.ErrNotExist.
func ReadTree(dir string) (_ *Tree, err error) {
	t := &Tree{dir: dir}
	for name, file := range map[string]**os.File{nodesFile: &t.nodes, positionsFile: &t.positions} {
		if *file, err = os.Open(filepath.Join(dir, name)); err != nil {
			return nil, errors.Join(fmt.Errorf("read the tree in %s: %w", dir, err), t.close())
		}
	}
	if err := t.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the tree in %s: %w", dir, err), t.close())
	}
	return t, nil
}

// load reads what is saved, and holds the right edge against the root.
func (t *Tree) load() error {
	text, err := os.ReadFile(filepath.Join(t.dir, stateFile))
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("its state: %w", err)
	}
	if t.edge, err = t.edgeOf(s.Size); err != nil {
		return err
	}
	root, err := rootOf(t.edge)
	if err != nil {
		return err
	}
	if !slices.Equal(root[:], s.Root) {
		return errors.New("it is not the tree that was saved")
	}
	t.saved = s.Size
	if s.Size > 0 {
		if t.last, err = t.position(s.Size - 1); err != nil {
			return err
		}
	}
	if t.last != s.Position {
		return errors.New("its positions are not those that were saved")
	}
	return nil
}

// nodeIndex is where a node is among the nodes: after all that were complete before it.
func nodeIndex(id compact.NodeID) int64 {
	leaf := (id.Index+1)<<id.Level - 1 // the one that completes it
	return int64(nodesBefore(leaf)) + int64(id.Level)
}

// nodesBefore is how many nodes are complete before a leaf is added.
func nodesBefore(leaf uint64) (n uint64) {
	for ; leaf > 0; leaf >>= 1 {
		n += leaf
	}
	return n
}

func (t *Tree) node(id compact.NodeID) ([]byte, error) {
	hash := make([]byte, hashSize)
	if _, err := t.nodes.ReadAt(hash, nodeIndex(id)*hashSize); err != nil {
		return nil, fmt.Errorf("node %d on level %d: %w", id.Index, id.Level, err)
	}
	return hash, nil
}

func (t *Tree) hashes(ids []compact.NodeID) (hashes [][]byte, err error) {
	hashes = make([][]byte, len(ids))
	for i, id := range ids {
		if hashes[i], err = t.node(id); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

func (t *Tree) edgeOf(size uint64) (*compact.Range, error) {
	hashes, err := t.hashes(compact.RangeNodes(0, size, nil))
	if err != nil {
		return nil, err
	}
	return ranges.NewRange(0, size, hashes)
}

func (t *Tree) position(leaf uint64) (event.Position, error) {
	var encoded [8]byte
	if _, err := t.positions.ReadAt(encoded[:], int64(leaf)*8); err != nil {
		return 0, fmt.Errorf("position of leaf %d: %w", leaf, err)
	}
	return event.Position(binary.BigEndian.Uint64(encoded[:])), nil
}

// leaves are the hashes of the leaves from begin on, up to end.
func (t *Tree) leaves(begin, end uint64) ([]Hash, error) {
	first := nodesBefore(begin)
	span := make([]byte, (nodesBefore(end)-first)*hashSize)
	if _, err := t.nodes.ReadAt(span, int64(first)*hashSize); err != nil {
		return nil, fmt.Errorf("leaves from %d on: %w", begin, err)
	}
	all := make([]Hash, end-begin)
	for i := range all {
		copy(all[i][:], span[(nodesBefore(begin+uint64(i))-first)*hashSize:])
	}
	return all, nil
}

// Size is how many leaves there are.
func (t *Tree) Size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.edge.End()
}

// Last is the position of the event of the last leaf.
func (t *Tree) Last() event.Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.last
}

// Append adds the leaves of the events that come next. When it fails nothing was
// added. They are kept when Save returns, and may be lost before.
func (t *Tree) Append(events []eventlog.Raw) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := t.edge.End()
	edge, err := ranges.NewRange(0, size, slices.Clone(t.edge.Hashes()))
	if err != nil {
		return fmt.Errorf("add leaves: %w", err)
	}
	nodes, positions := make([]byte, 0, len(events)*2*hashSize+64*hashSize), make([]byte, 0, len(events)*8)
	var scratch []byte
	for _, raw := range events {
		var leaf Hash
		leaf, scratch = hashLeaf(scratch, raw)
		if err := edge.Append(leaf[:], func(_ compact.NodeID, hash []byte) { nodes = append(nodes, hash...) }); err != nil {
			return fmt.Errorf("add leaves: %w", err)
		}
		positions = binary.BigEndian.AppendUint64(positions, uint64(raw.Position))
	}
	_, err = t.nodes.WriteAt(nodes, int64(nodesBefore(size))*hashSize)
	if err == nil {
		_, err = t.positions.WriteAt(positions, int64(size)*8)
	}
	if err != nil {
		return fmt.Errorf("add leaves: %w", err)
	}
	t.edge = edge
	if len(events) > 0 {
		t.last = events[len(events)-1].Position
	}
	return nil
}

// Save keeps what there is, durably.
func (t *Tree) Save() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == t.edge.End() && t.saved > 0 {
		return nil
	}
	root, err := rootOf(t.edge)
	if err == nil {
		err = errors.Join(t.nodes.Sync(), t.positions.Sync())
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(state{t.edge.End(), root[:], t.last})
	}
	if err == nil {
		err = replaceFile(filepath.Join(t.dir, stateFile), text)
	}
	if err != nil {
		return fmt.Errorf("save the tree: %w", err)
	}
	t.saved = t.edge.End()
	return nil
}

// replaceFile makes a file anew, so that whoever reads it finds one of the two.
func replaceFile(path string, text []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(file.Name()))
	}
	return err
}

// Root is the root that the tree had when it had so many leaves.
func (t *Tree) Root(size uint64) (Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if size > t.edge.End() {
		return Hash{}, fmt.Errorf("the tree has %d leaves and not %d", t.edge.End(), size)
	}
	edge, err := t.edgeOf(size)
	if err != nil {
		return Hash{}, fmt.Errorf("root of %d leaves: %w", size, err)
	}
	return rootOf(edge)
}

// Index is the leaf of the event at a position, and its hash; false where there
// is none.
func (t *Tree) Index(position event.Position) (leaf uint64, hash Hash, found bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	size := t.edge.End()
	i := sort.Search(int(size), func(i int) bool {
		pos, failure := t.position(uint64(i))
		err = errors.Join(err, failure)
		return pos >= position
	})
	if err != nil || uint64(i) == size {
		return 0, hash, false, err
	}
	if pos, err := t.position(uint64(i)); err != nil || pos != position {
		return 0, hash, false, err
	}
	all, err := t.leaves(uint64(i), uint64(i)+1)
	if err != nil {
		return 0, hash, false, err
	}
	return uint64(i), all[0], true, nil
}

// Inclusion proves that a leaf is in the tree of so many leaves: the hashes of RFC
// 6962, 2.1.1.
func (t *Tree) Inclusion(leaf, size uint64) ([][]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if size > t.edge.End() {
		return nil, fmt.Errorf("the tree has %d leaves and not %d", t.edge.End(), size)
	}
	nodes, err := proof.Inclusion(leaf, size)
	if err != nil {
		return nil, err
	}
	hashes, err := t.hashes(nodes.IDs)
	if err != nil {
		return nil, err
	}
	return nodes.Rehash(hashes, hashChildren)
}

// Close saves the tree and gives it back.
func (t *Tree) Close() error { return errors.Join(t.Save(), t.close()) }

// Discard gives the tree back as it was saved.
func (t *Tree) Discard() error { return t.close() }

func (t *Tree) close() error {
	var err error
	for _, file := range []*os.File{t.nodes, t.positions} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
