package authentication

import "sync/atomic"

// CountComparisons counts how often a password is compared with a hash from now on.
func (b *HTTPBasicAuth) CountComparisons() *atomic.Int32 {
	var n atomic.Int32
	compare := b.compare
	b.compare = func(hash, password []byte) error {
		n.Add(1)
		return compare(hash, password)
	}
	return &n
}
