package policy

import (
	"slices"
	"time"

	"commissaire/domain/event"
)

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// Opening tells whether a window is open, and if it is not, when it opens. zone is
// that of the window's name. No window is always open; one that could not be read,
// or whose zone is nil because it is not known, never is.
func Opening(w *event.Window, zone *time.Location, now time.Time) (open bool, opens time.Time) {
	if w == nil {
		return true, time.Time{}
	}
	from, fromErr := time.Parse("15:04", w.From)
	to, toErr := time.Parse("15:04", w.To)
	if zone == nil || fromErr != nil || toErr != nil {
		return false, time.Time{}
	}
	today := now.In(zone)
	for day := -1; day <= 7; day++ { // one that began yesterday may still be open
		date := time.Date(today.Year(), today.Month(), today.Day()+day, 12, 0, 0, 0, zone)
		if len(w.Days) > 0 && !slices.Contains(w.Days, weekdays[date.Weekday()]) {
			continue
		}
		nights := 0
		if to.Before(from) {
			nights = 1
		}
		begins, ends := clock(date, from), clock(date.AddDate(0, 0, nights), to)
		switch {
		case !begins.Before(ends): // clocks skip all of it
		case now.Before(begins):
			return false, begins
		case now.Before(ends):
			return true, time.Time{}
		}
	}
	return false, time.Time{} // there is one a week at least
}

// clock is when clocks show a time of day on a date. One that they skip is when
// they are put forward.
func clock(date, day time.Time) time.Time {
	t := time.Date(date.Year(), date.Month(), date.Day(), day.Hour(), day.Minute(), 0, 0, date.Location())
	begins, ends := t.ZoneBounds()
	shown := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC) // it may be of the day before
	wanted := time.Date(date.Year(), date.Month(), date.Day(), day.Hour(), day.Minute(), 0, 0, time.UTC)
	switch {
	case shown.After(wanted):
		return begins
	case shown.Before(wanted):
		return ends
	}
	return t
}
