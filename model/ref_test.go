package model_test

import (
	"errors"
	"strings"
	"testing"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

func TestEveryFormIsRead(t *testing.T) {
	for text, want := range map[string]model.Ref{
		"models:/fraud/3":                          {Scheme: model.Models, Name: "fraud", Version: "3"},
		"models:/fraud/latest":                     {Scheme: model.Models, Name: "fraud", Version: "latest"},
		"models:/a b.c/12":                         {Scheme: model.Models, Name: "a b.c", Version: "12"},
		"models:/fraud@champion":                   {Scheme: model.Models, Name: "fraud", Alias: "champion"},
		"models:/m-0a1b":                           {Scheme: model.Models, ID: "m-0a1b"},
		"runs:/abc/model":                          {Scheme: model.Runs, ID: "abc", Path: "model"},
		"runs:/abc/a/b/":                           {Scheme: model.Runs, ID: "abc", Path: "a/b"},
		"mlflow-artifacts:/1/x/y":                  {Scheme: model.Artifacts, Path: "1/x/y"},
		"file:///srv/m":                            {Scheme: model.Folder, Path: "/srv/m"},
		"file:/srv/a%20b/":                         {Scheme: model.Folder, Path: "/srv/a b"},
		"file:rel/m":                               {Scheme: model.Folder, Path: "rel/m"},
		"./m":                                      {Scheme: model.Folder, Path: "m"},
		"/srv/../srv/m":                            {Scheme: model.Folder, Path: "/srv/m"},
		"s3://bucket/a/b/":                         {Scheme: model.S3, Bucket: "bucket", Path: "a/b"},
		"gs://my_bucket/m":                         {Scheme: model.GS, Bucket: "my_bucket", Path: "m"},
		"abfss://c1s@acc.dfs.core.windows.net/p":   {Scheme: model.ABFSS, Bucket: "c1s", Account: "acc", Host: "acc.dfs.core.windows.net", Path: "p"},
		"wasbs://c1s@acc.blob.core.windows.net/p/": {Scheme: model.WASBS, Bucket: "c1s", Account: "acc", Host: "acc.blob.core.windows.net", Path: "p"},
	} {
		want.Text = text
		if got, err := model.Parse(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
}

func TestURIsThatNameAHostOrClimbAreRefused(t *testing.T) {
	for _, text := range []string{"", "models:/../..", "models:/a/..", "models:/a", "models:/", "models:/a/1/2", "models:/a@b/3", "models:/@x", "models:/a@",
		"models://host/a/1", "models://profile@databricks/a/1", "runs:/x", "runs://h/x/m", "runs:/a b/m", "runs:/x/../m", "mlflow-artifacts://host:5000/1", "mlflow-artifacts:/a/../b",
		"mlflow-artifacts:/", "file://host/etc", "file://u@/etc", "file:", "file:///a%00b", "s3://169.254.169.254/", "s3://2852039166/x", "s3://0xa9fea9fe/x", "s3://127.1/x",
		"s3:bucket/x", "s3:///x", "s3://b.c:9000/x", "s3://u:p@bucket/x", "s3://bucket/x?endpoint=http://evil", "s3://bucket/../x", "s3://[::1]/x", "gs://bucket/a#b",
		"abfss://c@evil.example.com/x", "abfss://c@acc.dfs.core.windows.net.evil.com/x", "abfss://acc.dfs.core.windows.net/x", "abfss://c1s@169.254.169.254/x",
		"http://localhost:9090", "http://[::ffff:127.0.0.1]", "HTTP://x/y", "https://2130706433/", "gopher://x/", "dbfs:/m", "ftp://x", "models:/a\n/1", "models:/a\\..\\b/1",
		"x:" + strings.Repeat("a", 5000)} {
		if got, err := model.Parse(text); !errors.Is(err, serving.Invalid) || serving.FixOf(err) == "" {
			t.Errorf("%.100q: got %+v, %v", text, got, err)
		}
	}
}

func TestLineageOutlivesVersions(t *testing.T) {
	for text, want := range map[string][2]string{"models:/fraud/3": {"models:/fraud", "fraud"}, "models:/fraud@a": {"models:/fraud", "fraud"},
		"runs:/abc/model": {"runs:/model", "model"}, "/srv/iris": {"/srv/iris", "iris"}, "models:/m-1": {"models:/m-1", "m-1"}} {
		r, err := model.Parse(text)
		if err != nil || r.Lineage() != want[0] || r.Default() != want[1] {
			t.Errorf("%s: %q, %q, %v", text, r.Lineage(), r.Default(), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"models:/a/1", "s3://bucket/x", "abfss://c@a.dfs.core.windows.net/x", "file:///x", "runs:/a/b", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := model.Parse(s)
		if err != nil {
			if !errors.Is(err, serving.Invalid) {
				t.Errorf("%v is not Invalid", err)
			}
			return
		}
		if r.Scheme != model.Folder && strings.Contains("/"+r.Path+"/", "/../") {
			t.Errorf("%q climbs: %+v", s, r)
		}
		if strings.ContainsAny(r.Bucket, ":/@?#[]%") {
			t.Errorf("%q names a host: %+v", s, r)
		}
	})
}

func TestListingsThatCannotBeAFolderAreRefused(t *testing.T) {
	long := strings.Repeat("a", 256)
	for name, files := range map[string][]string{
		"climbs": {"../x"}, "climbs inside": {"a/../../x"}, "dot": {"./a"}, "absolute": {"/etc/passwd"}, "backslash": {`a\b`}, "drive": {"c:/x"},
		"long": {strings.Repeat("a/", 2048) + "x"}, "long part": {long}, "collide": {"A", "a"}, "folders collide": {"A/x", "a/y"},
		"file and folder": {"a/x", "A"}, "folder and file": {"a", "a/x"}, "twice": {"x", "x"}, "trailing dot": {"a./x"}, "trailing blank": {"x "},
		"empty": {""}, "double slash": {"a//b"}, "slash at the end": {"a/"}, "line feed": {"a\nb"}, "NUL": {"a\x00"}, "not UTF-8": {"\xff"},
	} {
		var list []model.File
		for _, f := range files {
			list = append(list, model.File{Path: f, Size: 1})
		}
		if err := model.CheckFiles(list, 100, 1000); !errors.Is(err, serving.Invalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := model.CheckFiles([]model.File{{"a/b/c", 1}, {"a/b/d", 1}, {"a/c", 1}, {"ünï/ä b.txt", 1}, {"..x", 1}}, 100, 1000); err != nil {
		t.Error(err)
	}
	if err := model.CheckFiles([]model.File{{"a", 600}, {"b", 600}}, 100, 1000); !errors.Is(err, serving.Invalid) {
		t.Errorf("too large: %v", err)
	}
	if err := model.CheckFiles([]model.File{{"a", 1 << 62}, {"b", 1 << 62}, {"c", 1 << 62}}, 100, 1<<62); !errors.Is(err, serving.Invalid) {
		t.Errorf("overflow: %v", err)
	}
	if err := model.CheckFiles(make([]model.File, 11), 10, 1000); !errors.Is(err, serving.Invalid) {
		t.Errorf("too many: %v", err)
	}
}
