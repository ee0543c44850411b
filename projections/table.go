package projections

import (
	"cmp"
	"fmt"
	"iter"
	"strconv"

	"commissaire/domain/event"

	"github.com/tidwall/btree"
)

// view is a part of a snapshot: records by key. Whatever is done with all views (they
// are shared with the next snapshot, written, read, compared and listed) is done with
// each that is in the list views.
type view struct {
	name    string
	index   bool // it leads to records of other views, and is not listed to clients
	count   func(*Snapshot) int
	unshare func(*Snapshot)                        // gives it a tree of its own with the same records; nil: there is no tree
	records func(*Snapshot) iter.Seq2[string, any] // by key, in order, each as the value to encode
	parse   func(key string, text []byte) (put func(*Snapshot), err error)
}

// tree has the records of a table. It is shared by the snapshots between which
// nothing of it changed.
type tree[K cmp.Ordered, V any] = *btree.Map[K, V]

// table is a view that is a tree of a snapshot. parse may be called by several
// goroutines at once, the functions that it returns by one.
func table[K cmp.Ordered, V any](
	name string, of func(*Snapshot) *tree[K, V], parseKey func(string) (K, error), encode func(V) any, decode func([]byte) (V, error),
) view {
	return view{
		name:  name,
		count: func(s *Snapshot) int { return (*of(s)).Len() },
		unshare: func(s *Snapshot) {
			if all := of(s); *all != nil {
				*all = (*all).Copy()
			} else {
				*all = &btree.Map[K, V]{}
			}
		},
		records: func(s *Snapshot) iter.Seq2[string, any] {
			return func(yield func(string, any) bool) {
				(*of(s)).Scan(func(key K, value V) bool { return yield(fmt.Sprint(key), encode(value)) })
			}
		},
		parse: func(text string, record []byte) (func(*Snapshot), error) {
			key, err := parseKey(text)
			if err != nil {
				return nil, err
			}
			value, err := decode(record)
			return func(s *Snapshot) { (*of(s)).Set(key, value) }, err
		},
	}
}

// index is a table of names that leads to the records of others.
func index[K, V ~string](name string, of func(*Snapshot) *tree[K, V]) view {
	v := table(name, of, parseName, asIs, decodeValue)
	v.index = true
	return v
}

func parseName[K ~string](text string) (K, error) { return K(text), nil }

func parsePosition(text string) (event.Position, error) {
	pos, err := strconv.ParseUint(text, 10, 64)
	return event.Position(pos), err
}
