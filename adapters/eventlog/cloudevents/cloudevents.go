// Package cloudevents writes events to files and reads them again: one CloudEvents
// 1.0 event in structured JSON a line, so that any tool for these reads them, and
// not a byte of data and metadata is lost.
//
// The attributes are
//
//	source                     /streams/NAME of the event's stream, percent-encoded
//	id, type                   the event's
//	time                       from the metadata, where that has one
//	revision, position         decimal text: the integers of CloudEvents end at 2^31
//	metadata, metadatabase64   the metadata, whole, as text; in base64 where it is no UTF-8
//	data, data_base64          the data as it is stored; in base64 where a JSON tool
//	                           would write it otherwise (blanks, no JSON, a name twice)
//
// A file may be compressed: NAME.gz, NAME.zst. What was compressed apart may be
// written one after the other into one file.
package cloudevents

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/domain/event"
)

const streams = "/streams/"

// Append appends the line of an event to others.
func Append(lines []byte, raw eventlog.Raw) ([]byte, error) {
	var err error
	text := func(name, value string) {
		if err == nil {
			lines = append(lines, name...)
			lines, err = jsontext.AppendQuote(lines, value)
		}
	}
	lines = append(lines, `{"specversion":"1.0","id":"`...)
	lines = append(lines, raw.ID.String()...)
	lines = append(lines, '"')
	text(`,"source":`, streams+url.PathEscape(string(raw.Stream)))
	text(`,"type":`, raw.Type)
	if recorded, ok := recordedAt(raw.Meta); ok {
		text(`,"time":`, recorded)
	}
	lines = append(lines, `,"datacontenttype":"application/json","revision":"`...)
	lines = strconv.AppendInt(lines, int64(raw.Revision), 10)
	lines = append(lines, `","position":"`...)
	lines = strconv.AppendUint(lines, uint64(raw.Position), 10)
	lines = append(lines, '"')
	if utf8.Valid(raw.Meta) {
		text(`,"metadata":`, string(raw.Meta))
	} else {
		lines = appendBase64(lines, `,"metadatabase64":"`, raw.Meta)
	}
	if isCompact(raw.Data) {
		lines = append(lines, `,"data":`...)
		lines = append(lines, raw.Data...)
	} else {
		lines = appendBase64(lines, `,"data_base64":"`, raw.Data)
	}
	if err != nil {
		return nil, fmt.Errorf("write the event at position %d: %w", raw.Position, err)
	}
	return append(lines, "}\n"...), nil
}

func appendBase64(lines []byte, name string, value []byte) []byte {
	lines = append(lines, name...)
	lines = base64.StdEncoding.AppendEncode(lines, value)
	return append(lines, '"')
}

// recordedAt is the time in an event's metadata.
func recordedAt(meta []byte) (string, bool) {
	var m struct {
		Time string `json:"time"`
	}
	if json.Unmarshal(meta, &m) != nil {
		return "", false
	}
	_, err := time.Parse(time.RFC3339Nano, m.Time)
	return m.Time, err == nil
}

// isCompact tells whether data is JSON that every tool reads alike, without blanks.
func isCompact(data []byte) bool {
	value := jsontext.Value(bytes.Clone(data))
	return value.IsValid() && value.Compact() == nil && bytes.Equal(value, data)
}

// line is an event as a line of a file has it.
type line struct {
	SpecVersion    string         `json:"specversion"`
	ID             string         `json:"id"`
	Source         string         `json:"source"`
	Type           string         `json:"type"`
	Time           string         `json:"time"`
	ContentType    string         `json:"datacontenttype"`
	Revision       string         `json:"revision"`
	Position       string         `json:"position"`
	Metadata       *string        `json:"metadata"`
	MetadataBase64 *string        `json:"metadatabase64"`
	Data           jsontext.Value `json:"data"`
	DataBase64     *string        `json:"data_base64"`
}

// Parse reads the line of an event. An attribute that it does not know is refused:
// it could not be kept.
func Parse(text []byte) (eventlog.Raw, error) {
	var l line
	if err := json.Unmarshal(text, &l, json.RejectUnknownMembers(true)); err != nil {
		return eventlog.Raw{}, fmt.Errorf("it is no event: %w", err)
	}
	raw, err := l.raw()
	if err != nil {
		return eventlog.Raw{}, fmt.Errorf("it is no event: %w", err)
	}
	return raw, nil
}

func (l line) raw() (raw eventlog.Raw, err error) {
	escaped, isStream := strings.CutPrefix(l.Source, streams)
	switch {
	case l.SpecVersion != "1.0":
		return raw, fmt.Errorf("specversion %q is not 1.0", l.SpecVersion)
	case !isStream || escaped == "":
		return raw, fmt.Errorf("source %q is not %sNAME", l.Source, streams)
	case l.Type == "":
		return raw, errors.New("it has no type")
	case (l.Metadata == nil) == (l.MetadataBase64 == nil):
		return raw, errors.New("it must have metadata or metadatabase64")
	case (l.Data == nil) == (l.DataBase64 == nil):
		return raw, errors.New("it must have data or data_base64")
	}
	stream, err := url.PathUnescape(escaped)
	if err != nil {
		return raw, fmt.Errorf("source: %w", err)
	}
	revision, err := strconv.ParseInt(l.Revision, 10, 64)
	if err != nil || revision < 0 {
		return raw, fmt.Errorf("revision %q is none", l.Revision)
	}
	position, err := strconv.ParseUint(l.Position, 10, 63)
	if err != nil {
		return raw, fmt.Errorf("position %q is none", l.Position)
	}
	raw = eventlog.Raw{
		Position: event.Position(position), Stream: event.Stream(stream), Revision: event.Revision(revision), Type: l.Type,
	}
	if raw.ID, err = uuid.Parse(l.ID); err != nil {
		return raw, fmt.Errorf("id: %w", err)
	}
	if raw.Meta, err = decodeEither(l.Metadata, l.MetadataBase64); err != nil {
		return raw, fmt.Errorf("metadatabase64: %w", err)
	}
	if raw.Data = []byte(l.Data); raw.Data == nil {
		raw.Data, err = base64.StdEncoding.Strict().DecodeString(*l.DataBase64)
	}
	if err != nil {
		return raw, fmt.Errorf("data_base64: %w", err)
	}
	return raw, nil
}

// decodeEither returns the text where there is one, else what is encoded in base64.
func decodeEither(text, encoded *string) ([]byte, error) {
	if text != nil {
		return []byte(*text), nil
	}
	return base64.StdEncoding.Strict().DecodeString(*encoded)
}
