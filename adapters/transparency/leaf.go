// Package transparency makes it evident when the log was tampered with: a Merkle
// tree (RFC 6962) over all events, in their order, and checkpoints of it, signed.
//
// A leaf is what an event is and says, and not where or when a store recorded it,
// so every store of the same history has the same root: stream, revision (8 bytes,
// big-endian), type, id (16 bytes), metadata and data, each with its length before
// it (4 bytes, big-endian).
//
// A checkpoint is a signed note (golang.org/x/mod/sumdb/note, Ed25519) with three
// lines: origin (the key's name), number of events, root. One of the same history
// has the same bytes, whoever signs it, and when.
//
// README.md says what a verification finds, and what it cannot find.
package transparency

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"commissaire/adapters/eventlog"
)

const hashSize = sha256.Size

// Hash is a hash of the tree.
type Hash = [hashSize]byte

// AppendLeaf appends the leaf of an event.
func AppendLeaf(leaf []byte, raw eventlog.Raw) []byte {
	field := func(n int) { leaf = binary.BigEndian.AppendUint32(leaf, uint32(n)) }
	field(len(raw.Stream))
	leaf = append(leaf, raw.Stream...)
	field(8)
	leaf = binary.BigEndian.AppendUint64(leaf, uint64(raw.Revision))
	field(len(raw.Type))
	leaf = append(leaf, raw.Type...)
	field(len(raw.ID))
	leaf = append(leaf, raw.ID[:]...)
	field(len(raw.Meta))
	leaf = append(leaf, raw.Meta...)
	field(len(raw.Data))
	return append(leaf, raw.Data...)
}

// hashLeaf is the hash of an event's leaf. It uses scratch, and returns it for the
// next.
func hashLeaf(scratch []byte, raw eventlog.Raw) (Hash, []byte) {
	scratch = AppendLeaf(append(scratch[:0], rfc6962.RFC6962LeafHashPrefix), raw)
	return sha256.Sum256(scratch), scratch
}

// hashChildren is the hash of a node.
func hashChildren(left, right []byte) []byte {
	var node [1 + 2*hashSize]byte
	node[0] = rfc6962.RFC6962NodeHashPrefix
	copy(node[1:], left)
	copy(node[1+hashSize:], right)
	hash := sha256.Sum256(node[:])
	return hash[:]
}

var ranges = &compact.RangeFactory{Hash: hashChildren}

// rootOf is the root of a range that begins at 0.
func rootOf(r *compact.Range) (root Hash, err error) {
	hash, err := r.GetRootHash(nil)
	if err != nil {
		return root, err
	}
	if hash == nil {
		hash = rfc6962.DefaultHasher.EmptyRoot()
	}
	copy(root[:], hash)
	return root, nil
}
