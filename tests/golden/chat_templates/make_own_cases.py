#!/usr/bin/env python3
"""Writes own_cases.json: small templates of our own and what the reference engine makes of them.

Run with jinja2 3.1.6 (pip install jinja2==3.1.6) on Python 3.11. The settings are those of README-style chat templates:
an immutable sandbox, trim_blocks and lstrip_blocks on, loop controls, {% generation %}, the tojson of json.dumps.
"""
import copy
import datetime
import json
import os

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2024, 2, 29, 5, 6, 7)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(str(message))


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENV = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation])
ENV.filters["tojson"] = tojson
ENV.globals["raise_exception"] = raise_exception
ENV.globals["strftime_now"] = NOW.strftime

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "  Grüße, <|im_end|> \"you\" & 'me' \n"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a1", "function": {"name": "f", "arguments": {"x": 1, "y": [1.5, None, True]}}}]},
        {"role": "tool", "content": "ok", "name": "f"},
    ],
    "d": {"b": 2, "a": 1, "C": 3, "items": "shadow", "nested": {"k": [1, {"z": "é"}]}},
    "words": ["pear", "Apple", "fig", "apple", "Banana"],
    "numbers": [3, -1, 2.5, 10, 2, 3],
    "people": [{"name": "Ada", "age": 36, "ok": True}, {"name": "bob", "age": 7}, {"name": "Cid", "age": 36, "ok": False}],
    "tree": [{"n": "a", "c": [{"n": "b", "c": []}, {"n": "c", "c": [{"n": "d", "c": []}]}]}, {"n": "e", "c": []}],
    "text": "Hello, wörld! ＡＢＣ 日本語 ß ﬁn 😀",
    "multi": "one\n  two\n\nthree\n",
    "empty": "",
    "big": 12345678901234567890123,
    "floats": [1.0, 0.1, 1e-05, 1e16, 123456789012345.6, -0.0, 2.5e-10, 1e22, 100.0, 1.7976931348623157e308],
    "none_value": None,
    "html": "<a href=\"x\">'q' & r</a>",
}

TEMPLATES = r'''
whitespace ::: a  \n  {%- if true -%}  \n b \n {%- endif %}\n c
lstrip only before blocks ::: x\n   {% if true %}\n   y {{ 1 }}\n   {% endif %}\n   z\n   {{ 2 }}\n
plus keeps ::: a\n   {%+ if true %}b{% endif +%}\n  c\n  {#+ note #}\n  {# note +#}\nd
minus print ::: a   {{- 1 -}}   b   {#- c -#}   d
trailing newline ::: a\n
two trailing newlines ::: a\n\n
raw ::: {% raw %}{{ x }} {% if %}{% endraw %}|{%- raw -%}  {# n #}  {%- endraw -%}  |
raw trims ::: a\n  {% raw %}\n  b {{ }}\n  {% endraw %}\nc
tabs and crlf ::: a\r\n\t{% set x = 1 %}\r\n{{ x }}\rb
comment in line ::: a {# b {{ c }} {% d %} #} e
comment only line ::: a\n  {# b #}\nc
nested braces ::: {{ {'a': {'b': {}}}}}|{{ {} }}|{{ {'a': 1}['a'] }}
dict at tag end ::: {% set x = {'a': {'b': 1}} %}{{ x.a.b }}
string escapes ::: {{ 'a\n\t\\\'\"\x41\u00e9\U0001F600\101\q\/' }}
string concat literals ::: {{ 'a' "b" 'c' }}
newline in string ::: {{ 'a\
b
c' }}
numbers ::: {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 2e-7 }} {{ 1E5 }} {{ 42.0 }}
leading zero is refused ::: {{ 007 }}
number formats ::: {{ 0 }} {{ 00 }} {{ 1.0 }} {{ 1e400 }} {{ -1e400 }} {{ 123456789012345678901234567890 }}
float printing ::: {% for f in floats %}{{ f }} {% endfor %}{{ 0.1 + 0.2 }} {{ 1/3 }} {{ 2/1 }} {{ 1e15 }} {{ 1e-4 }} {{ 12345678.9 * 1000 }}
literals ::: {{ true }} {{ False }} {{ none }} {{ None }} {{ [1, 'a', none, true, 1.0] }} {{ (1,) }} {{ () }} {{ (1, 2) }} {{ {'a': 1, 2: 'b', none: [()]} }}
tuple without parens ::: {{ 1, 2 }}{% set a = 1, 2, %}{{ a }}
trailing commas ::: {{ [1, 2, ] }}{{ {'a': 1, } }}{{ (1, 2, ) }}
repr quoting ::: {{ ["it's", 'say "x"', "both ' and \"", 'back\\slash', 'nl\n', 'tab\t', '\x07', '\x7f', '\u00a0', '\u200b', 'é', '😀', '\ue000'] }}
nested repr ::: {{ messages[2] }}
bools are ints ::: {{ true + 1 }} {{ true == 1 }} {{ [0, 1][true] }} {{ {1: 'x'}[true] }} {{ {1: 'x'}[1.0] }} {{ -true }} {{ +true }} {{ true * 'ab' }}
integer division ::: {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 6 / 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ -2 ** 2 }}
power is left associative ::: {{ 2 ** 3 ** 2 }}
float zero mod ::: {{ -4.0 % 2 }} {{ 4.0 % -2 }} {{ -0.0 }} {{ 0.0 * -1 }} {{ -1 // 3.0 }}
precedence ::: {{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ not 1 == 2 }} {{ (1 + 2) ~ 3 }} {{ 'a' ~ 1 * 2 ~ 'b' }} {{ 2 - 1 - 1 }} {{ -1 | abs }} {{ -3 ** 2 }} {{ 'x' ~ 'y' | upper }}
not in and chains ::: {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 'a' not in 'bcd' }} {{ not 'a' in 'abc' }} {{ 2 in [1, 2] }} {{ 'a' in {'a': 1} }} {{ '' in 'x' }} {{ 3 in (1, 2) }} {{ 1 in undefined_thing }}
comparisons ::: {{ 'a' < 'b' }} {{ 'Z' < 'a' }} {{ [1, 2] < [1, 3] }} {{ [1] < [1, 0] }} {{ (1, 2) == (1, 2) }} {{ [1, 2] == (1, 2) }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ none == none }} {{ 'é' > 'z' }} {{ '😀' > '\uffff' }}
logic values ::: {{ 0 or 'x' }} {{ 1 and 'y' }} {{ '' or [] or none }} {{ 1 or undefined_thing.x }} {{ [] and 1 }} {{ not [] }} {{ not 'a' }}
inline if ::: {{ 'a' if true }}|{{ 'a' if false }}|{{ 'a' if false else 'b' if false else 'c' }}|{{ ('x' if 0) is undefined }}
concat operator ::: {{ 1 ~ none ~ true ~ [1] ~ undefined_thing ~ 1.0 ~ 'é' }}
slices ::: {{ text[1:5] }}|{{ text[-1] }}|{{ text[::-1] }}|{{ text[7:] }}|{{ text[:-3] }}|{{ text[::3] }}|{{ text[10:2:-2] }}|{{ text[100:] }}|{{ text[-100:3] }}
list slices ::: {{ [1,2,3,4,5][::-1] }} {{ [1,2,3,4,5][1:4:2] }} {{ [1,2,3,4,5][-2:] }} {{ [1,2,3,4,5][:-1] }} {{ (1,2,3)[1:] }} {{ [1,2,3][5:1:-1] }} {{ [1,2,3][none:none] }} {{ [1,2,3][::-2] }}
indexing ::: {{ messages[0]['role'] }} {{ messages[-1].role }} {{ messages.0.content }} {{ text[7] }} {{ [1,2][5] is undefined }} {{ 'abc'[9] is undefined }} {{ d['nope'] is undefined }} {{ d.b }} {{ d['items'] }} {{ d.items is callable }} {{ d.nested.k.1.z }}
attribute of none ::: {{ none_value.x is undefined }} {{ none_value['x'] is undefined }} {{ (1).x is undefined }} {{ messages[2].content.x is undefined }}
undefined is quiet ::: [{{ undefined_thing }}] [{{ d.nope }}] {{ undefined_thing is undefined }} {{ undefined_thing | length }} {% for x in undefined_thing %}x{% else %}none{% endfor %} {{ undefined_thing | default('dflt') }} {{ undefined_thing == other_undefined }} {{ not undefined_thing }} {{ undefined_thing | list }} {{ [undefined_thing] }}
undefined attribute fails ::: {{ undefined_thing.attr }}
undefined arithmetic fails ::: {{ undefined_thing + 1 }}
undefined compare fails ::: {{ undefined_thing < 1 }}
undefined call fails ::: {{ undefined_thing() }}
undefined tojson fails ::: {{ undefined_thing | tojson }}
none iteration fails ::: {% for x in none_value %}{% endfor %}
str plus int fails ::: {{ 'a' + 1 }}
int plus str fails ::: {{ 1 + 'a' }}
none plus str fails ::: {{ none + 'a' }}
list plus tuple fails ::: {{ [1] + (2,) }}
zero division fails ::: {{ 1 / 0 }}
zero modulo fails ::: {{ 1 % 0 }}
in none fails ::: {{ 'a' in none_value }}
in string needs string ::: {{ 1 in 'abc' }}
compare mixed fails ::: {{ 1 < 'a' }}
unhashable key fails ::: {{ {[]: 1} }}
call of string fails ::: {{ 'a'() }}
slice of none fails ::: {{ none_value[1:] }}
slice step zero fails ::: {{ 'abc'[::0] }}
unpack fails ::: {% for a, b in [[1, 2, 3]] %}{% endfor %}
append is blocked ::: {% set l = [1] %}{{ l.append(2) }}
update is blocked ::: {{ d.update({'x': 1}) }}
blocked looks undefined ::: {{ [].append is defined }} {{ d.pop is defined }} {{ [].count is defined }} {{ [].index is defined }}
raise ::: {{ raise_exception('no: ' ~ 1) }}
raise in macro ::: {% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}
raise untaken ::: {{ 'fine' if true else raise_exception('no') }}
range too big fails ::: {{ range(100001) | list }}
set scopes ::: {% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 3 %}{{ x }}{% endfor %}{{ x }}{% with %}{% set x = 4 %}{{ x }}{% endwith %}{{ x }}
loop iterations are fresh ::: {% for i in [1,2,3] %}{% if i == 2 %}{% set y = i %}{% endif %}[{{ y }}]{% endfor %}
set unpacking ::: {% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = [3, 4] %}{{ c }}{{ d2 }}{% set e, (f, g) = 5, (6, 7) %}{{ e }}{{ f }}{{ g }}
block set ::: {% set x %}a {{ 1 + 1 }} b{% endset %}[{{ x }}]{% set y | upper | replace('A', 'x') %}abc{% endset %}{{ y }}
block set scope ::: {% set x %}{% set inner = 1 %}v{% endset %}{{ x }}{{ inner is defined }}
namespaces ::: {% set ns = namespace(a=1, b='x') %}{% for i in [1,2,3] %}{% set ns.a = ns.a + i %}{% set ns.new = i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.new }}{{ ns['a'] }}{{ ns.nope is undefined }}
namespace of dict ::: {% set ns = namespace({'q': 1}, r=2) %}{{ ns.q }}{{ ns.r }}
ns assign on dict fails ::: {% set d.x = 1 %}
loop variables ::: {% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}
loop cycle and changed ::: {% for x in [1,1,2,2,1] %}{{ loop.cycle('a', 'b', 'c') }}{{ loop.changed(x) }}{{ loop.changed(x, 1) }} {% endfor %}
loop filter ::: {% for x in numbers if x > 2 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% else %}none{% endfor %}|{% for x in numbers if x > 99 %}x{% else %}none{% endfor %}
loop else ::: {% for x in [] %}a{% else %}b{% endfor %}{% for x in [1] %}a{% else %}b{% endfor %}{% for x in [1] %}{% continue %}{% else %}b{% endfor %}{% for x in [1] %}{% break %}{% else %}c{% endfor %}{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}d{% endfor %}
break continue ::: {% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
nested loops and break ::: {% for x in [1,2] %}{% for y in [1,2,3] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{{ loop.index }};{% endfor %}
loop over dict ::: {% for k in d %}{{ k }}{% endfor %}|{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k, v in d|items %}{{ k }}{% endfor %}|{% for v in d.values() %}{{ v }};{% endfor %}|{{ d.keys() | list }}
loop unpack nested ::: {% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }} {% endfor %}
loop recursive ::: {% for n in tree recursive %}{{ loop.depth }}{{ n.n }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}
recursive with filter ::: {% for n in tree if n.n != 'c' recursive %}{{ n.n }}{{ loop.index }}{{ loop(n.c) }}{% endfor %}
loop not recursive fails ::: {% for n in tree %}{{ loop(n.c) }}{% endfor %}
loop over generator ::: {% for x in words | map('upper') %}{{ x }}{{ loop.last }}{% endfor %}
loop var shadows and returns ::: {% set x = 'o' %}{% for x in [1, 2] %}{{ x }}{% endfor %}{{ x }}
with ::: {% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}
macros ::: {% macro m(a, b=2, c=a) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(a=4, c=5) }}{{ m(1, c=9) }}{{ m() }}
macro scope ::: {% set x = 1 %}{% macro m() %}{{ x }}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}{% set x = 3 %}{{ m() }}
macro varargs kwargs ::: {% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k='v') }}{{ m(*[1, 2], **{'z': 3}) }}
macro recursion ::: {% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
macro result is text ::: {% macro m() %} x {% endmacro %}{{ m() | trim }}{{ m() | length }}{{ m() ~ 1 }}{{ m() + 'a' }}{{ m() is string }}{{ m.name }}
macro too many fails ::: {% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
macro unknown keyword fails ::: {% macro m(a) %}{% endmacro %}{{ m(b=2) }}
macro undefined parameter ::: {% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}
call block ::: {% macro box(t) %}<{{ t }}:{{ caller() }}>{% endmacro %}{% call box('a') %}in {{ 1 }}{% endcall %}
call block with arguments ::: {% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(v, i=0) each([7, 8]) %}({{ v }}/{{ i }}){% endcall %}
call without caller ::: {% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}
filter block ::: {% filter upper | replace('B', '-') %}a{{ 'b' }}c{% endfilter %}
generation ::: a{% generation %}{% set x = 1 %}b{{ x }}{% endgeneration %}c{{ x is defined }}
generation lines ::: {% for m in [1,2] %}\n{% generation %}\n{{ m }}\n{% endgeneration %}\n{% endfor %}\n
if chain ::: {% for x in [0,1,2,3] %}{% if x == 0 %}a{% elif x == 1 %}b{% elif x == 2 %}c{% else %}d{% endif %}{% endfor %}
print statement ::: {% print 1, 'a' %}
string methods ::: {{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abc'.lstrip('ba') }}|{{ 'abc'.rstrip('cx') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a b c d'.split(' ', 2) }}|{{ 'a b c'.split(maxsplit=1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ '  a b  c '.rsplit(none, 1) }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('bc') }}{{ 'abcabc'.startswith('a', 3) }}
more string methods ::: {{ 'abcabc'.find('c') }}{{ 'abcabc'.rfind('c') }}{{ 'abc'.find('x') }}{{ 'éabc'.find('b') }}{{ 'aaaa'.count('aa') }}{{ 'abc'.count('') }}{{ 'abc'.index('b') }}|{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'abc'.partition('x') }}{{ 'abc'.rpartition('x') }}|{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}|{{ 'ab'.ljust(4, '.') }}{{ 'ab'.rjust(4) }}{{ 'ab'.center(5, '*') }}{{ 'abc'.center(6, '*') }}{{ '-5'.zfill(4) }}{{ '5'.zfill(3) }}
case methods ::: {{ text.upper() }}|{{ text.lower() }}|{{ text.title() }}|{{ text.capitalize() }}|{{ text.swapcase() }}|{{ "they're bill's".title() }}|{{ 'ΟΔΟΣ ΑΣ'.lower() }}|{{ 'ǆ'.upper() }}|{{ 'İ'.lower() }}
predicates ::: {{ 'abc'.isalpha() }}{{ 'ab1'.isalnum() }}{{ '12'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '½'.isnumeric() }}{{ ' \t\u3000'.isspace() }}{{ ''.isspace() }}{{ 'Ab C'.istitle() }}{{ 'ABC1'.isupper() }}{{ 'abc'.islower() }}{{ '1'.islower() }}{{ 'é'.isalpha() }}{{ '日本'.isalpha() }}{{ ''.isascii() }}{{ 'é'.isascii() }}
splitlines ::: {{ 'a\nb\r\nc\x0bd\u2028e\n'.splitlines() }}{{ 'a\nb\n'.splitlines(true) }}{{ ''.splitlines() }}
replace ::: {{ 'aXbXc'.replace('X', '--') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abc'.replace('', '.') }}{{ 'héé'.replace('é', '') }}{{ ''.replace('', 'x') }}{{ 'abc'.replace('', '-', 2) }}
join method ::: {{ ', '.join(words) }}{{ ''.join('abc') }}{{ '-'.join([]) }}
join of ints fails ::: {{ ','.join([1]) }}
empty separator fails ::: {{ 'a'.split('') }}
str format ::: {{ '{} {} {0}'.format(1, 2) if false else '{} {}'.format('a', 1.5) }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{x} {y:>5}|{y:<5}|{y:^5}|{z:.2f}|{z:08.3f}|{n:,}|{n:x}|{n:+d}'.format(x=none, y='ab', z=3.14159, n=1234567) }}{{ '{{}} {a.role} {b[role]}'.format(a=messages[0], b=messages[1]) }}
percent format ::: {{ '%s and %d and %.3f and %5s|%-5s|%05d|%x|%%|%r' % ('a', 42, 3.14159, 'b', 'c', 7, 255, 'q') }}{{ '%(a)s-%(b)d' % {'a': 1, 'b': 2} }}{{ '%s' % 5 }}{{ '%s' % ([1],) }}{{ '%.1s' % 'abc' }}{{ 'a' % [1] }}{{ 'a' % undefined_thing }}{{ '%+d % d %e %g' % (1, 2, 12345.678, 0.0001) }}
percent format fails ::: {{ '%d' % 'a' }}
percent too few fails ::: {{ '%s %s' % ('a',) }}
percent too many fails ::: {{ '%s' % ('a', 'b') }}
dict methods ::: {{ d.get('a') }}{{ d.get('zz') }}{{ d.get('zz', 'dflt') }}{{ d.keys() }}{{ d.values() | list | length }}{{ {'a': 1}.items() }}{{ d.copy() == d }}{{ {}.get('x') is none }}
list methods ::: {{ [1,2,1].count(1) }}{{ [1,2].index(2) }}{{ (1,2,2).count(2) }}
list arithmetic ::: {{ [1] + [2, 3] }}{{ [0] * 3 }}{{ (1,) + (2,) }}{{ 2 * [1, 2] }}{{ 'ab' * 3 }}{{ 'ab' * -1 }}{{ [] + [] }}
range ::: {{ range(3) }} {{ range(1, 4) | list }} {{ range(10, 0, -3) | list }} {{ range(0, 10, 4) | list }} {{ range(3)[1] }} {{ 2 in range(3) }} {{ range(0) | list }} {{ range(5) | length }} {{ range(1, 9, 2) }} {{ range(4)[::-1] }} {{ range(1, 9, 2)[1:] }} {{ range(10)[8:2:-3] | list }}
dict function ::: {{ dict(a=1, b=[2]) }}{{ dict([('x', 1), ('y', 2)]) }}{{ dict({'q': 1}, r=2) }}
filters text ::: {{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'hello world-foo (bar)' | title }}|{{ "it's o'clock" | title }}|{{ 'hELLO wORLD' | capitalize }}|{{ 'aBc' | upper }}{{ 'ABC' | lower }}|{{ 5 | string }}{{ none | string }}|{{ 'a.b.c' | replace('.', '-', 1) }}|{{ 123 | replace(2, 9) }}|{{ html | e }}|{{ html | escape | length }}|{{ 'x' | safe }}|{{ 'ab' | center(6) }}|
filters indent ::: {{ multi | indent }}|{{ multi | indent(2, true) }}|{{ multi | indent(2, blank=true) }}|{{ multi | indent('> ', first=true) }}|{{ '' | indent }}|{{ 'a' | indent(width=3, first=true) }}
filters truncate ::: {{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(9, true) }}|{{ 'foo bar baz qux' | truncate(11) }}|{{ 'foo bar baz qux' | truncate(11, false, '..', 0) }}|{{ 'short' | truncate }}
truncate other types ::: {{ [1, 2] | truncate }}{{ undefined_thing | truncate }}{{ d | truncate(3) if false }}
truncate of int fails ::: {{ 5 | truncate }}
lazy failures ::: {% set a = 5 | batch(2) %}{% set b = 5 | slice(2) %}{% set c = 5 | unique %}fine
late failure fails ::: {% for x in 5 | unique %}{% endfor %}
filters wordcount ::: {{ 'a b, c-d e_f' | wordcount }}{{ '' | wordcount }}
filters format ::: {{ '%s, %s!' | format('Hi', 'you') }}{{ '%(a)s' | format(a=1) }}
filters number ::: {{ -5 | abs }}{{ -2.5 | abs }} {{ '42' | int }}{{ '42.9' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ '0x1A' | int(0, 16) }}{{ ' 7 ' | int }}{{ '1_000' | int }}{{ 3.99 | int }}{{ -3.99 | int }}{{ none | int(default=3) }}{{ true | int }}{{ [] | int }}{{ 1e20 | int }}{{ '1e30' | int }}{{ '9999999999999999999' | int }} {{ '1.5' | float }}{{ 'x' | float }}{{ '1e3' | float }}{{ 3 | float }}{{ 'x' | float(2.0) }}{{ 'inf' | float }}{{ 'nan' | float }}{{ ' -1.5 ' | float }}
filters round ::: {{ 42.55 | round }}{{ 42.55 | round(1) }}{{ 42.55 | round(1, 'floor') }}{{ 42.51 | round(1, 'ceil') }} {{ 2.5 | round }}{{ 3.5 | round }}{{ -2.5 | round }} {{ 42 | round }}{{ 1234.5 | round(-2) }} {{ 2.675 | round(2) }} {{ 1e20 | round }} {{ 41 | round(-1) }}
filters length ::: {{ 'é😀' | length }}{{ [1,2] | count }}{{ d | length }}{{ '' | length }}{{ (1,) | length }}
length of generator fails ::: {{ words | map('upper') | length }}
length of int fails ::: {{ 5 | length }}
filters default ::: {{ undefined_thing | default('a') }}{{ none | default('a') }}{{ '' | default('a') }}{{ '' | default('a', true) }}{{ none | d('b', boolean=true) }}{{ d.nope | default }}|{{ 0 | default(1) }}
filters join ::: {{ [1, none, 'a', 1.5] | join(', ') }}|{{ 'abc' | join('-') }}|{{ people | join(', ', attribute='name') }}|{{ [] | join }}|{{ ['a', undefined_thing] | join('-') }}
filters first last ::: {{ [1,2] | first }}{{ [1,2] | last }}{{ 'éa' | first }}{{ 'aé' | last }}[{{ [] | first }}]{{ [] | last is defined }}{{ d | first }}{{ words | map('upper') | first }}
filters list ::: {{ 'aé' | list }}{{ d | list }}{{ (1,2) | list }}{{ {1: 2} | list }}
filters dictsort ::: {{ d | dictsort }}{{ {'b': 1, 'A': 2, 'a': 3} | dictsort(true) }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
filters items ::: {{ {'a': 1} | items | list }}{{ undefined_thing | items | list }}
items of list fails ::: {{ [1] | items | list }}
items of list unread ::: {% set x = [1] | items %}fine
filters map ::: {{ words | map('upper') | list }}{{ people | map(attribute='name') | join(',') }}{{ people | map(attribute='ok', default='?') | list }}{{ [1, 2] | map('string') | list }}{{ ['a1', 'b2'] | map('replace', '1', 'x') | list }}{{ [[1, 2], [3]] | map('first') | list }}{{ [[1, 2], [3]] | map(attribute=0) | list }}{{ messages | map(attribute='tool_calls.0.id') | list | length if false else 'skip' }}{{ [] | map('upper') | list }}
filters select ::: {{ numbers | select('gt', 2) | list }}{{ numbers | select('even') | list if false else '' }}{{ [0, 1, '', 'a', none] | select | list }}{{ [0, 1, '', 'a'] | reject | list }}{{ [1, 2, 3, 4] | reject('odd') | list }}{{ ['a', 1, none] | select('string') | list }}{{ words | reject('in', ['fig']) | list }}{{ ['x', 'y'] | reject('equalto', 'x') | join }}
filters selectattr ::: {{ people | selectattr('ok') | map(attribute='name') | list }}{{ people | selectattr('age', 'equalto', 36) | map(attribute='name') | list }}{{ people | rejectattr('ok', 'defined') | map(attribute='name') | list }}{{ people | rejectattr('ok') | list | length }}{{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }}{{ people | selectattr('age', '>', 10) | list | length }}
generator is truthy ::: {{ 'yes' if [] | selectattr('x') else 'no' }}{{ 'yes' if [] | selectattr('x') | list else 'no' }}
generator is read once ::: {% set g = words | map('lower') %}{{ g | list | length }}{{ g | list | length }}{{ g is iterable }}{{ g is sequence }}{{ g is mapping }}
filters sort ::: {{ words | sort }}{{ words | sort(case_sensitive=true) }}{{ words | sort(reverse=true) }}{{ numbers | sort }}{{ people | sort(attribute='age') | map(attribute='name') | list }}{{ people | sort(attribute='age,name', reverse=true) | map(attribute='name') | list }}{{ 'hello' | sort }}{{ [[2, 1], [1, 2]] | sort }}
sort mixed fails ::: {{ [1, 'a'] | sort }}
filters unique ::: {{ words | unique | list }}{{ words | unique(true) | list }}{{ [1, 1.0, true, 2] | unique | list }}{{ people | unique(attribute='age') | map(attribute='name') | list }}
filters min max sum ::: {{ numbers | min }}{{ numbers | max }}{{ words | min }}{{ words | max }}{{ words | max(case_sensitive=true) }}{{ people | max(attribute='age') }}[{{ [] | min }}]{{ numbers | sum }}{{ people | sum(attribute='age') }}{{ [1, 2] | sum(start=10) }}{{ [[1], [2]] | sum(start=[]) }}
filters reverse ::: {{ 'añb' | reverse }}{{ [1, 2, 3] | reverse | list }}{{ (1, 2) | reverse | first }}{{ words | map('upper') | reverse }}
filters batch slice ::: {{ [1,2,3,4,5] | batch(2) | list }}{{ [1,2,3] | batch(2, 'x') | list }}{{ [1,2,3,4,5] | slice(3) | list }}{{ [1,2,3,4,5] | slice(3, 'x') | list }}
filters attr ::: {{ d | attr('a') is undefined }}{{ 'x' | attr('upper') is callable }}
tojson ::: {{ messages[2] | tojson }}|{{ d | tojson }}|{{ "é\"\\\n\t\x08\x0c\x01\x7f\u2028😀</script>&'" | tojson }}|{{ floats | tojson }}|{{ [] | tojson }}{{ {} | tojson }}{{ (1, 2) | tojson }}{{ none | tojson }}{{ true | tojson }}{{ big | tojson }}
tojson indent ::: {{ d | tojson(indent=2) }}|{{ [1, [], {}, [2]] | tojson(indent=4) }}|{{ {'a': [1]} | tojson(indent='--') }}|{{ [1] | tojson(indent=0) }}
tojson options ::: {{ 'é😀' | tojson(ensure_ascii=true) }}{{ d | tojson(sort_keys=true) }}{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}{{ {1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson }}{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true, separators=(', ', ' = ')) }}
tojson of generator fails ::: {{ words | map('upper') | tojson }}
tojson of namespace fails ::: {{ namespace(a=1) | tojson }}
tests type ::: {% for x in [1, 1.5, true, 'a', none, [1], (1,), {'a': 1}] %}{{ x is number }}{{ x is integer }}{{ x is float }}{{ x is boolean }}{{ x is string }}{{ x is none }}{{ x is sequence }}{{ x is iterable }}{{ x is mapping }}{{ x is callable }} {% endfor %}
tests values ::: {{ 4 is even }}{{ 3 is odd }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 1 is eq 1 }}{{ 1 is ne 1 }}{{ 2 is gt 1 }}{{ 2 is lessthan 1 }}{{ 1 is in [1, 2] }}{{ 'a' is in 'abc' }}{{ true is true }}{{ 1 is true }}{{ false is false }}{{ none is sameas none }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 'zz' is filter }}
tests negated ::: {{ 1 is not none }}{{ x is not defined }}{{ not x is defined }}{{ 1 is not string and 2 is not even }}{{ d.a is defined and d.a is number }}
tests undefined ::: {{ x is iterable }}{{ x is sequence }}{{ x is mapping }}{{ x is string }}{{ x is callable }}{{ x is none }}
test swallows if is refused ::: {{ x.y is defined if x is defined else 'n' }}
concat binds tighter fails ::: {{ 1 + 2 ~ 3 }}
tests on loop ::: {% for m in messages if m.role is eq 'user' %}{{ m.role }}{% endfor %}
strftime ::: {{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %B %A %a %j %y %p %I %-d %e %U %W %V %G %u %w %% %F %T %D %R %C') }}
strftime other ::: {{ strftime_now('plain') }}|{{ strftime_now('%x %X %c') }}|{{ strftime_now('%f') }}|{{ strftime_now('%-m/%-d/%-H:%-M') }}
call with star ::: {{ '{}{}'.format(*[1, 2]) }}{{ range(*(1, 3)) | list }}{{ dict(**{'a': 1}) }}
method on literal ::: {{ 'a,b'.split(',')[0].upper() }}{{ [3, 1][0] }}{{ {'a': 'x'}.a.upper() }}{{ ('a' ~ 'b').upper() }}
call results chain ::: {{ messages[1].content.strip().split(',')[0].replace('ü', 'ue') | upper }}
filter precedence ::: {{ 'a' + 'b' | upper }}{{ ('a' + 'b') | upper }}{{ [1, 2] | first + 5 }}{{ 1 if 'a' | upper == 'A' else 2 }}{{ not '' | length }}
test argument binds ::: {{ 5 is divisibleby 5 and true }}{{ [1, 2] is eq [1, 2] }}
unicode names ::: {% set größe = 3 %}{{ größe }}
dict with same keys ::: {{ {'a': 1, 'a': 2} }}{{ {1: 'x', true: 'y'} }}
big integers ::: {{ big }}{{ big == big }}{{ big > 1 }}{{ big is integer }}{{ [big] }}{{ -5 // 2 * big == 0 if false else 'n' }}
str of containers ::: {{ [1, 'a'] | string }}{{ {'a': [none]} | string | length }}{{ ('x',) | string }}
comparison of containers ::: {{ messages[0] == messages[0] }}{{ messages[0] == messages[1] }}{{ messages[0] in messages }}{{ {'role': 'system', 'content': 'Be kind.'} == messages[0] }}{{ [1, [2, {'a': 3}]] == [1.0, [2, {'a': 3}]] }}
deep access ::: {{ messages[2].tool_calls[0].function.arguments.y[0] }}{{ messages[2]['tool_calls'][0]['function']['arguments'] | tojson }}
unknown tag is refused ::: {% frobnicate %}
unclosed if is refused ::: {% if true %}x
unclosed print is refused ::: {{ 1
bad bracket is refused ::: {{ (1] }}
stray end is refused ::: {% endif %}
empty print is refused ::: {{ }}
break outside is refused ::: {% break %}
bad target is refused ::: {% set 1 = 2 %}
chained is is refused ::: {{ 1 is number is string }}
positional after keyword is refused ::: {{ dict(a=1, 2) }}
bad character is refused ::: {{ a ? b }}
unclosed comment is refused ::: a {# b
unclosed raw is refused ::: {% raw %} a
unclosed string is refused ::: {{ 'abc }}
lone surrogate slices ::: {{ '😀é'[0] }}{{ '😀é'[1] }}{{ '😀é' | length }}{{ '😀é'[::-1] }}
lazy filtered loop ::: {% set ns = namespace(n=0) %}{% for x in [1, 2, 3, 4] if ns.n < 2 %}{{ x }}{% set ns.n = ns.n + 1 %}{% endfor %}
loop assigned outside ::: {% for i in [1, 2] %}{% set outer = loop %}{{ outer.index }}{% for j in [1] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
if inside set body ::: {% set t %}{% for m in messages %}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}{% endset %}{{ t | upper }}
chat like ::: {%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '<|u|>' + m.content | trim + '<|e|>\n' }}\n    {%- elif m.tool_calls %}\n        {%- for c in m.tool_calls %}\n            {{- '<|t|>' ~ (c.function | tojson) ~ '\n' }}\n        {%- endfor %}\n    {%- else %}\n        {{- '<|' ~ m.role ~ '|>' ~ m.content ~ '\n' }}\n    {%- endif %}\n{%- endfor %}
'''


def cases():
    current = None
    for line in TEMPLATES.split("\n"):
        if " ::: " in line:
            if current:
                yield current
            name, text = line.split(" ::: ", 1)
            current = (name, text)
        elif current and line:
            current = (current[0], current[1] + "\n" + line)
    yield current


LAYOUT = ("whitespace", "lstrip", "plus keeps", "trailing", "two trailing", "raw trims", "tabs", "comment only",
          "generation lines", "chat like")


def main():
    out = []
    for name, text in cases():
        if name.startswith(LAYOUT):  # here the table's \n, \t and \r stand for the characters
            quoted = text.replace("\\n'", "\0")
            text = quoted.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").replace("\0", "\\n'")
        case = {"name": name, "template": text}
        try:
            template = ENV.from_string(text)
        except (jinja2.TemplateSyntaxError, SyntaxError) as e:
            case["error"] = {"kind": "syntax", "python_message": str(e)}
        else:
            try:
                case["expected"] = template.render(**copy.deepcopy(VARIABLES))
            except Raised as e:
                case["error"] = {"kind": "raise_exception", "message": str(e)}
            except Exception as e:
                case["error"] = {"kind": "runtime", "python_message": f"{type(e).__name__}: {e}"}
        out.append(case)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "own_cases.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"jinja2": jinja2.__version__, "now": NOW.isoformat(), "variables": VARIABLES, "cases": out}, f,
                  ensure_ascii=False, indent=1)
        f.write("\n")
    kinds = {}
    for c in out:
        kind = c.get("error", {}).get("kind", "text")
        kinds[kind] = kinds.get(kind, 0) + 1
    print(len(out), kinds)


main()
