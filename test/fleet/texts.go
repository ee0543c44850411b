package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The programs that read texts.

func cat(ctx context.Context, p *process, args []string) int {
	_, names, err := options(args, "u")
	if err != nil {
		return p.complain("cat", err)
	}
	return p.eachInput(ctx, "cat", names, func(_ string, in io.Reader) error {
		_, err := io.Copy(p.stdout, in)
		return err
	})
}

func head(ctx context.Context, p *process, args []string) int {
	given, names, err := options(lines(args), "n:c:")
	if err != nil {
		return p.complain("head", err)
	}
	n, err := strconv.Atoi(orElse(given, "nc", "10"))
	if err != nil || n < 0 {
		return p.complain("head", errors.New("invalid number"))
	}
	return p.eachInput(ctx, "head", names, func(_ string, in io.Reader) error {
		if has(given, 'c') {
			_, err := io.Copy(p.stdout, io.LimitReader(in, int64(n)))
			return err
		}
		text, err := io.ReadAll(in)
		p.stdout.Write(text[:afterLines(text, n)])
		return err
	})
}

func tail(ctx context.Context, p *process, args []string) int {
	given, names, err := options(lines(args), "n:c:")
	if err != nil {
		return p.complain("tail", err)
	}
	number := orElse(given, "nc", "10")
	fromStart := strings.HasPrefix(number, "+")
	n, err := strconv.Atoi(strings.TrimLeft(number, "+-"))
	if err != nil {
		return p.complain("tail", errors.New("invalid number"))
	}
	return p.eachInput(ctx, "tail", names, func(_ string, in io.Reader) error {
		if file, ok := in.(io.Seeker); ok && has(given, 'c') && !fromStart {
			file.Seek(int64(-n), io.SeekEnd) // fails where it has less, or is a pipe
		}
		if file, ok := in.(*bytes.Reader); ok && has(given, 'c') && fromStart {
			file.Seek(int64(max(n-1, 0)), io.SeekStart)
			_, err := io.Copy(p.stdout, in)
			return err
		}
		text, err := io.ReadAll(in)
		size := len(text)
		if !has(given, 'c') {
			size = bytes.Count(text, []byte("\n"))
			if !bytes.HasSuffix(text, []byte("\n")) && len(text) > 0 {
				size++
			}
		}
		skip := max(size-n, 0)
		if fromStart {
			skip = min(max(n-1, 0), size)
		}
		if !has(given, 'c') {
			skip = afterLines(text, skip)
		}
		p.stdout.Write(text[skip:])
		return err
	})
}

// afterLines is where the first n lines of a text end.
func afterLines(text []byte, n int) (end int) {
	for range n {
		line := bytes.IndexByte(text[end:], '\n')
		if line < 0 {
			return len(text)
		}
		end += line + 1
	}
	return end
}

// lines turns -5 into -n 5.
func lines(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		return append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	return args
}

func orElse(given map[byte]string, letters, otherwise string) string {
	for i := range len(letters) {
		if value, ok := given[letters[i]]; ok {
			return value
		}
	}
	return otherwise
}

func wc(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "clw")
	if err != nil {
		return p.complain("wc", err)
	}
	return p.eachInput(ctx, "wc", names, func(name string, in io.Reader) error {
		if has(given, 'c') && len(given) == 1 && name == "-" { // much goes through here
			n, err := io.Copy(io.Discard, in)
			fmt.Fprintln(p.stdout, n)
			return err
		}
		text, err := io.ReadAll(in)
		var counts []string
		for _, c := range []struct {
			letter byte
			count  int
		}{{'l', bytes.Count(text, []byte("\n"))}, {'w', len(bytes.Fields(text))}, {'c', len(text)}} {
			if len(given) == 0 || has(given, c.letter) {
				counts = append(counts, strconv.Itoa(c.count))
			}
		}
		if name != "-" {
			counts = append(counts, name)
		}
		fmt.Fprintln(p.stdout, strings.Join(counts, " "))
		return err
	})
}

func sha256sum(ctx context.Context, p *process, args []string) int {
	_, names, err := options(args, "b")
	if err != nil {
		return p.complain("sha256sum", err)
	}
	return p.eachInput(ctx, "sha256sum", names, func(name string, in io.Reader) error {
		digest := sha256.New()
		if _, err := io.Copy(digest, in); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%x  %s\n", digest.Sum(nil), name)
		return err
	})
}

func encode(ctx context.Context, p *process, args []string) int {
	given, names, err := options(args, "diw:")
	if err != nil {
		return p.complain("base64", err)
	}
	width, err := strconv.Atoi(orElse(given, "w", "76"))
	if err != nil || len(names) > 1 {
		return p.complain("base64", errors.New("invalid argument"))
	}
	return p.eachInput(ctx, "base64", names, func(_ string, in io.Reader) error {
		if has(given, 'd') {
			_, err := io.Copy(p.stdout, base64.NewDecoder(base64.StdEncoding, in))
			if err != nil {
				return errors.New("invalid input")
			}
			return nil
		}
		text, err := io.ReadAll(in)
		coded := []byte(base64.StdEncoding.EncodeToString(text))
		if width > 0 {
			for line := range slices.Chunk(coded, width) {
				p.stdout.Write(append(slices.Clone(line), '\n'))
			}
			return err
		}
		p.stdout.Write(coded)
		return err
	})
}

// grep knows grep [-E] [-A LINES] PATTERN [FILE…].
func grep(ctx context.Context, p *process, args []string) int {
	given, rest, err := options(args, "EA:")
	if err != nil || len(rest) == 0 {
		p.complain("grep", cmp.Or(err, errors.New("no pattern")))
		return 2
	}
	pattern, err := regexp.Compile(rest[0])
	after, err2 := strconv.Atoi(orElse(given, "A", "0"))
	if err := cmp.Or(err, err2); err != nil {
		p.complain("grep", err)
		return 2
	}
	found := 1
	exit := p.eachInput(ctx, "grep", rest[1:], func(_ string, in io.Reader) error {
		text, err := io.ReadAll(in)
		more := 0
		for line := range bytes.Lines(text) {
			if pattern.Match(bytes.TrimSuffix(line, []byte("\n"))) {
				found, more = 0, after+1
			}
			if more > 0 {
				p.stdout.Write(line)
				more--
			}
		}
		return err
	})
	return max(found, 2*exit)
}

// tr knows tr -d '\000'.
func tr(ctx context.Context, p *process, args []string) int {
	if !slices.Equal(args, []string{"-d", `\000`}) {
		return p.complain("tr", errors.New("only -d '\\000' is known"))
	}
	return p.eachInput(ctx, "tr", nil, func(_ string, in io.Reader) error {
		text, err := io.ReadAll(in)
		p.stdout.Write(bytes.ReplaceAll(text, []byte{0}, nil))
		return err
	})
}
