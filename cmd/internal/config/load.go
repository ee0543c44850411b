package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Load reads the configuration. path "" is the default file, which may be missing; "-"
// is standard input. environment has the variables by name, given the values of the
// command line by dotted key. dev changes defaults and nothing else. Unknown keys and
// variables, a key twice, and values that cannot be meant are refused.
func Load(path string, stdin io.Reader, environment map[string]string, given map[string]any, dev bool) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, fmt.Errorf("read the configuration: %w", err) }
	c := Defaults(dev)
	fields := map[string]any{}
	addFields(fields, "", reflect.ValueOf(&c).Elem())
	file, err := readConfig(path, stdin)
	if err != nil {
		return fail(err)
	}
	settings := map[string]any{} // of all layers, by key
	for _, layer := range []map[string]any{file, fromEnvironment(fields, environment), given} {
		flat := map[string]any{}
		if err := flatten(flat, "", layer, fields); err != nil {
			return fail(err)
		}
		maps.Copy(settings, flat)
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := set(fields[key], settings[key]); err != nil {
			return fail(fmt.Errorf("%s: %w", key, err))
		}
	}
	if err := noMisspelt(fields, environment, c.Credentials.MasterKey, c.SSH.Jump.Key, c.Log.SigningKey); err != nil {
		return fail(err)
	}
	return c, c.check()
}

func readConfig(path string, stdin io.Reader) (map[string]any, error) {
	var text []byte
	var err error
	switch path {
	case "-":
		path = "standard input"
		text, err = io.ReadAll(stdin)
	case "":
		path = DefaultFile
		text, err = os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	default:
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	var layer map[string]any
	if err := json.Unmarshal(text, &layer); err != nil {
		return nil, fmt.Errorf("%s must have a JSON object: %w", path, err)
	}
	return layer, nil
}

// addFields adds a pointer to all that can be set, by dotted key.
func addFields(fields map[string]any, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("json")
		if v.Field(i).Kind() == reflect.Struct {
			addFields(fields, key+".", v.Field(i))
			continue
		}
		fields[key] = v.Field(i).Addr().Interface()
	}
}

// flatten adds the settings of an object by dotted key; the object may have them
// dotted or nested, with - or _. A null is as if it were not there. What is not
// one of fields is refused, and what is there twice.
func flatten(flat map[string]any, prefix string, object, fields map[string]any) error {
	for _, written := range slices.Sorted(maps.Keys(object)) {
		key, value := prefix+strings.ReplaceAll(written, "_", "-"), object[written]
		section := func(known string) bool { return strings.HasPrefix(known, key+".") }
		_, known := fields[key]
		_, twice := flat[key]
		switch nested, isObject := value.(map[string]any); {
		case value == nil:
		case twice:
			return fmt.Errorf("%s is there twice", key)
		case known:
			flat[key] = value
		case !slices.ContainsFunc(slices.Collect(maps.Keys(fields)), section):
			return fmt.Errorf("there is no key %q; the nearest is %q", key, Nearest(key, slices.Collect(maps.Keys(fields))))
		case !isObject:
			return fmt.Errorf("%s must be an object", key)
		default:
			if err := flatten(flat, key+".", nested, fields); err != nil {
				return err
			}
		}
	}
	return nil
}

// Nearest is the name most like one that there is not. There must be one at least.
func Nearest(name string, known []string) string {
	return slices.MinFunc(slices.Sorted(slices.Values(known)), func(a, b string) int {
		return levenshtein.ComputeDistance(a, name) - levenshtein.ComputeDistance(b, name)
	})
}

// set puts a value, as JSON gives it, into a field.
func set(field, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	reflect.ValueOf(field).Elem().SetZero() // a list replaces the default one
	err = json.Unmarshal(data, field)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if in := wrong.Field; in != "" {
			return fmt.Errorf("%s: it is a %s and must be a %s", in, wrong.Value, wrong.Type)
		}
		return fmt.Errorf("it is a %s and must be a %s", wrong.Value, wrong.Type)
	}
	return err
}

// variable is the environment's name of a key.
func variable(key string) string {
	return "COMMISSAIRE_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))
}

// fromEnvironment reads text as it is, and all else as JSON.
func fromEnvironment(fields map[string]any, environment map[string]string) map[string]any {
	layer := map[string]any{}
	for key, field := range fields {
		text, ok := environment[variable(key)]
		if !ok {
			continue
		}
		var value any
		if _, isText := field.(*string); isText || json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		layer[key] = value
	}
	return layer
}

// Environment is the environment of this process, by name.
func Environment() map[string]string {
	all := map[string]string{}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		all[name] = value
	}
	return all
}

// notOurs are variables that others set: tests, and Kubernetes in every pod of a
// namespace that has a service named commissaire.
var notOurs = regexp.MustCompile(`^COMMISSAIRE_(TEST_.*=|SERVICE_(HOST|PORT.*)=|PORT=[a-z]+://|PORT_[0-9]+_(TCP|UDP|SCTP).*=)`)

// noMisspelt refuses variables that are named like ours and are of no key, but
// for those that have the keys which are configured so.
func noMisspelt(fields map[string]any, environment map[string]string, keys ...string) error {
	var known []string
	for key := range fields {
		known = append(known, variable(key))
	}
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		if slices.Contains(known, name) || !strings.HasPrefix(name, "COMMISSAIRE_") || notOurs.MatchString(name+"="+environment[name]) || slices.Contains(keys, "env:"+name) {
			continue
		}
		return fmt.Errorf("there is no variable %s; the nearest is %s", name, Nearest(name, known))
	}
	return nil
}
