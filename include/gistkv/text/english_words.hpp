// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <span>
#include <string_view>

/// What the English rule (english.hpp) knows about words. All in small letters.

namespace gistkv::text::detail::english_words {

/// A string literal as a template argument.
template <std::size_t Size>
struct literal {
  char text[Size]{};
  constexpr literal(const char (&characters)[Size]) { std::copy_n(characters, Size, text); }
};

/// The words of a literal, which single spaces part, sorted. Loops by hand: g++ 12 with
/// -fsanitize=undefined takes no `find` of a template argument for a constant.
template <literal Words>
constexpr auto split_words() {
  constexpr std::size_t size = std::size(Words.text) - 1;
  constexpr std::size_t n_words = [] {
    std::size_t n = 1;
    for (const char c : Words.text) n += c == ' ';
    return n;
  }();
  std::array<std::string_view, n_words> out;
  std::size_t begin = 0;
  for (std::string_view& word : out) {
    std::size_t end = begin;
    while (end < size && Words.text[end] != ' ') ++end;
    word = std::string_view(Words.text + begin, end - begin);
    begin = end + 1;
  }
  std::sort(out.begin(), out.end());
  return out;
}
template <literal Words>
inline constexpr auto words = split_words<Words>();

/// In front of a name. Never the end of a sentence.
inline constexpr auto titles = words<
    "adm amb archbp atty attys bp brig capt cdr cmdr col cols comdr cpl det dist dr drs ens fr "
    "gen gens gov govs hon insp lt maj messrs mlle mme mr mrs ms msgr mssrs mx pres prof profs "
    "pvt rep reps rev rt sec'y sen sens sgt sra srta supt vp">;

/// Always with something behind it.
inline constexpr auto never_final =
    words<"a.k.a approx c.f ca cf e.g eg esp f.e i.a i.e ie incl resp sc scil v v.s viz vs w.r.t">;

/// In front of a number, a Roman numeral or a letter; else an ordinary word. Of days and months:
/// those that `may_be_final` has too.
inline constexpr auto number_labels = words<
    "app apr apt art arts aug bk bks deg ch chap chaps chs cl col cols dec ed eq eqs ex ext feb "
    "fig "
    "figs fn fri jan jul jun lat ln lvl mar mon n nn no nos nov nr n° nº oct op p para paras pg "
    "pgs "
    "pl pls pp pt pts reg rm rs sec secs sep sept stat ste tab tbl tel thu thur thurs tue tues "
    "usc ver vol vols vv wed №">;

/// In front of a number inside a sentence: `6 ft. 2 in.`
inline constexpr auto measures = words<"cm ft hr hrs kg km lb lbs min mins mm oz yd yds">;

/// Ends a sentence only where a word follows that begins one.
inline constexpr auto may_be_final = words<
    "acad agric al ala alta anat anon apr ariz ark assn assoc astr aug ave biol bldg blvd "
    "bros btw calif chem cie co colo conn contrib corp cos dec dept depts dipl div econ ed "
    "eds elec elev encycl eng engr esq est et exch exec feb fla fri ft geog geol geom gmbh "
    "govt hist hort hosp hwy ia inc ind intl jan jour jr jul jun kan ky llc ltd mar mech mfg "
    "mfr mgr mich mil minn misc mon mont mt mun natl naut neb nev nov oct okla ont opp penn "
    "ph.d pharm phil phot phys pkwy plc proc pseud psych publ rd repr rev'd sask sci sep sept "
    "soc sr st suppl surg symp tenn tex theol thu thur thurs trans transl treas tue tues twp "
    "univ va vt wash wed wis wyo zool">;

/// Those of `may_be_final` that are so even without a capital letter: `sci.` may be, `co.` is.
inline constexpr auto may_be_final_small = words<
    "al assn assoc ave blvd bros btw co corp dept depts ed eds esq est govt inc jr ltd misc "
    "ph.d sr st trans transl univ">;

/// Words that begin a sentence and are no part of a name: behind an abbreviation they tell whether
/// it ends the sentence.
inline constexpr auto starters = words<
    "a about above according actually after afterwards again all almost already also although "
    "among an and another any anybody anyone anything anyway apparently are aren't as at "
    "because before behind below besides between beyond both but by can can't certainly clearly "
    "could couldn't currently despite did didn't do does doesn't don't during each earlier "
    "either even eventually ever every everybody everyone everything except few finally first "
    "for fortunately from further furthermore generally hardly has hasn't have haven't having "
    "he he'd he'll he's hence her here here's hers herself him himself his how however hundreds "
    "i i'd i'll i'm i've if in indeed initially instead is isn't it it'd it'll it's its itself "
    "just last lastly late lately later least less let let's likewise many maybe me meanwhile "
    "millions more moreover most mostly much my myself naturally near nearly neither never "
    "nevertheless next no nobody none nonetheless nor normally not nothing now nowadays "
    "obviously occasionally of often on once one only or originally other others otherwise our "
    "ours out over overall part people perhaps please possibly presently previously probably "
    "rarely rather really recently several shall she she'd she'll she's should shouldn't "
    "similarly since so some somebody someone something sometimes somewhat soon still "
    "subsequently such suddenly surely than that that's the their theirs them then there "
    "there's thereafter therefore these they they'd they'll they're they've this those though "
    "thousands through throughout thus to today together tomorrow too two under unfortunately "
    "unless unlike until up upon us usually very was wasn't we we'd we'll we're we've well were "
    "weren't what what's whatever when whenever where whereas wherever whether which while who "
    "who's whoever whole whom whose why with within without won't would wouldn't yes yesterday "
    "yet you you'd you'll you're you've your yours">;

/// Behind a quotation and a name: the sentence goes on.
inline constexpr auto reporting_verbs = words<
    "added admitted agreed announced answered asked asks babbled barked began begged bellowed "
    "called continued cried cries declared demanded echoed exclaimed explained gasped groaned "
    "growled grumbled hissed inquired insisted interrupted laughed mumbled murmured muttered "
    "nodded observed persisted pleaded questioned remarked repeated replied replies retorted "
    "returned roared said says screamed shouted shrieked sighed smiled snapped sobbed stammered "
    "thought urged wailed whispered wondered yelled">;

/// What an apostrophe at the beginning of a word may stand in front of.
inline constexpr auto elisions = words<
    "bout cause cept d eighties em ere fifties fore forties gainst kay ll m n neath nineties "
    "nother nough re round s scuse seventies sixties spect ss t thirties til till tis twas "
    "tween twenties twere twill twixt twould ve">;

/// A line that ends with one of these goes on in the next line.
inline constexpr auto hanging = words<
    "a an and as at but by for from her his in into is its my nor of on or our over than that "
    "the their this to was were which with your">;

/// Begins the adverbial in `At 5 a.m. Mr. Smith left.`
inline constexpr auto time_prepositions =
    words<"about after around at before between by from on since till until">;

/// Belongs to the clock time in front of it.
inline constexpr auto after_clock_time = words<
    "bst cdt central cest cet cst ct eastern edt est et friday gmt greenwich mdt monday "
    "mountain mst mt pacific pdt pst pt saturday sunday thursday tuesday utc wednesday">;

/// Names with a mark of exclamation.
inline constexpr auto exclaimed_names = words<"jeopardy yahoo yum">;

/// A word in small letters (ASCII ones only), up to 24 bytes; longer words are in no list: "".
class folded {
 public:
  constexpr explicit folded(std::string_view word) {
    if (word.size() > letters_.size()) return;
    size_ = word.size();
    for (std::size_t i = 0; i < size_; ++i) {
      const char c = word[i];
      letters_[i] = 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  constexpr std::string_view view() const { return {letters_.data(), size_}; }
  constexpr bool in(std::span<const std::string_view> list) const {
    return size_ > 0 && std::binary_search(list.begin(), list.end(), view());
  }

 private:
  std::array<char, 24> letters_{};
  std::size_t size_ = 0;
};

}  // namespace gistkv::text::detail::english_words
