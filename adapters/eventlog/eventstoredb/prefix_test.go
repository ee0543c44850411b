package eventstoredb

import (
	"slices"
	"testing"

	"commissaire/domain/event"
	"commissaire/test/esdb"
)

func TestTwoServicesShareAServer(t *testing.T) {
	server := esdb.Start(t)
	a := opened(t, server.ConnectionString(), Options{Prefix: "berlin-"}, defaultTimes)
	b := opened(t, server.ConnectionString(), Options{Prefix: "berlin2-"}, defaultTimes)
	first, second := events(2), events(1)
	server.Fill("berlin", 3)
	atA := appended(t, a, "roster", event.NoRevision, first)
	atB := appended(t, b, "roster", event.NoRevision, second)
	server.Fill("someone-roster", 3)
	for name, test := range map[string]struct {
		store *Store
		want  []string
		head  event.Position
		other event.Position
	}{
		"the first":  {a, []string{first[0].ID.String(), first[1].ID.String()}, atA, atB},
		"the second": {b, []string{second[0].ID.String()}, atB, atA},
	} {
		var followed, read []string
		for _, raw := range backlog(t, test.store, 0) {
			followed = append(followed, raw.ID.String())
			if raw.Stream != "roster" {
				t.Errorf("%s: an event of %s", name, raw.Stream)
			}
		}
		for _, raw := range stream(t, test.store, "roster") {
			read = append(read, raw.ID.String())
		}
		if !slices.Equal(followed, test.want) || !slices.Equal(read, test.want) {
			t.Errorf("%s: followed %v and read %v, want %v", name, followed, read, test.want)
		}
		if head, err := test.store.Head(t.Context()); err != nil || head != test.head {
			t.Errorf("%s: the head is %d, %v, want %d", name, head, err, test.head)
		}
		if _, err := test.store.ReadAt(t.Context(), []event.Position{test.head, test.other}); err == nil {
			t.Errorf("%s: an event of the other was read", name)
		}
	}
}

func TestTheHeadIsFoundWithoutReadingWhatOthersRecorded(t *testing.T) {
	server := esdb.Start(t)
	store := opened(t, server.ConnectionString(), Options{}, defaultTimes)
	const foreign = 20_000
	look := func(want event.Position, most int) {
		t.Helper()
		before := server.Scanned()
		head, err := store.Head(t.Context())
		if err != nil || head != want {
			t.Errorf("the head is %d, %v, want %d", head, err, want)
		}
		eventually(t, "what was left is read no more", func() bool { return server.Reads() == 0 })
		if n := server.Scanned() - before; n > most {
			t.Errorf("the server looked at %d events, want %d at the most", n, most)
		}
	}
	pos := appended(t, store, "roster", event.NoRevision, events(1))
	look(pos, secondLook)
	server.Fill("somebody-else", foreign)
	look(pos, foreign+2*secondLook) // the server looks at each once
	look(pos, 2*window)
	look(pos, 2*window)
	other := opened(t, server.ConnectionString(), Options{}, defaultTimes)
	pos = appended(t, other, "roster", 0, events(1))
	look(pos, secondLook)

	// Asked again it looks at little.
	server.Fill("somebody-else", secondLook/2)
	look(pos, firstLook+secondLook)
	look(pos, firstLook)

	// One that has followed knows.
	server.Fill("somebody-else", foreign)
	cold := opened(t, server.ConnectionString(), Options{}, defaultTimes)
	backlog(t, cold, 0)
	store = cold
	look(pos, 2*window)
	// One that has not finds it all the same.
	store = opened(t, server.ConnectionString(), Options{}, defaultTimes)
	look(pos, 3*foreign)
}

func TestAnEmptyLogOnAServerThatOthersUseHasNoHead(t *testing.T) {
	server := esdb.Start(t)
	server.Fill("somebody-else", 2000)
	store := opened(t, server.ConnectionString(), Options{}, defaultTimes)
	if head, err := store.Head(t.Context()); err != nil || head != 0 {
		t.Errorf("the head is %d, %v, want 0", head, err)
	}
	if raws := backlog(t, store, 0); len(raws) != 0 {
		t.Errorf("%d events follow, want none", len(raws))
	}
}
