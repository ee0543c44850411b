package policy

import (
	"testing"
	"time"

	"commissaire/domain/event"
)

func zone(t *testing.T, w *event.Window) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestAWindowOpensAndCloses(t *testing.T) {
	parse := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	nights := &event.Window{Days: []string{"sat"}, From: "22:00", To: "04:30", Zone: "Europe/Berlin"}
	daily := &event.Window{From: "02:30", To: "03:30", Zone: "Europe/Berlin"}       // what the clocks skip in March
	midnight := &event.Window{From: "00:30", To: "04:00", Zone: "America/Santiago"} // what the clocks skip in September
	evenings := &event.Window{From: "22:00", To: "00:30", Zone: "America/Santiago"}
	for _, c := range []struct {
		window *event.Window
		now    string
		opens  string // "": it is open
	}{
		{nights, "2026-03-07T20:59:59Z", "2026-03-07T21:00:00Z"},
		{nights, "2026-03-07T21:00:00Z", ""},
		{nights, "2026-03-08T03:29:59Z", ""},                     // Sunday, of the night that began on Saturday
		{nights, "2026-03-08T03:30:00Z", "2026-03-14T21:00:00Z"}, // 04:30
		{nights, "2026-03-28T23:00:00Z", ""},
		{nights, "2026-03-29T02:29:59Z", ""}, // 04:29 by summer time
		{nights, "2026-03-29T02:30:00Z", "2026-04-04T20:00:00Z"},
		{daily, "2026-03-29T01:29:00Z", ""}, // 03:29, the hour before was skipped
		{daily, "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"},
		{midnight, "2026-09-05T16:00:00Z", "2026-09-06T04:00:00Z"}, // 01:00, which comes after 23:59
		{midnight, "2026-09-06T04:00:00Z", ""},
		{midnight, "2026-09-06T07:00:00Z", "2026-09-07T03:30:00Z"},
		{evenings, "2026-09-06T02:00:00Z", ""},
		{evenings, "2026-09-06T04:00:00Z", "2026-09-07T01:00:00Z"},
	} {
		open, opens := Opening(c.window, zone(t, c.window), parse(c.now))
		if open != (c.opens == "") || !open && !opens.Equal(parse(c.opens)) {
			t.Errorf("at %s: open %v, opens %s", c.now, open, opens.UTC())
		}
	}
}
