// Which segments of a group come back in others: the clean rule of megaent/objective/segments.py.
//
// The segments are entered into a trie with failure links (Aho and Corasick 1975): a node stands for a prefix
// of a segment, its failure link for the longest proper suffix of that prefix which is a prefix of a segment
// too. The segments are also the text to be searched, so no search is needed: the place after the k-th token
// of a segment is the node of depth k on its path, and every segment that ends there is met by following the
// failure links. A segment occurs in the responses of all nodes whose links lead to its end.
//
// Cost: a few steps per token plus one per distinct number of responses over a place; no step per pair.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <queue>

#include "../check.h"
#include "ops.h"

namespace megaent {
namespace {

using Node = int32_t;
constexpr Node kRoot = 0;

// (node, token) -> child, open addressing in one array; nothing is ever removed.
class Children {
 public:
  explicit Children(size_t num_entries) {
    size_t size = 16;
    while (size < 2 * num_entries) size *= 2;
    slots_.assign(size, Slot{0, 0, kRoot});
  }

  // The child, or kRoot where there is none: no child is the root.
  Node find(Node node, int64_t token) const { return slots_[place_of(node, token)].child; }

  // The child, which becomes `fresh` where there was none.
  Node find_or_add(Node node, int64_t token, Node fresh) {
    Slot& slot = slots_[place_of(node, token)];
    if (slot.child == kRoot) slot = Slot{token, node, fresh};
    return slot.child;
  }

 private:
  struct Slot {
    int64_t token;
    Node parent;
    Node child;  // kRoot in an empty slot
  };

  size_t place_of(Node node, int64_t token) const {
    uint64_t hash = static_cast<uint64_t>(token) * 0x9e3779b97f4a7c15u ^ static_cast<uint64_t>(node);
    hash *= 0xbf58476d1ce4e5b9u;
    hash ^= hash >> 31;
    size_t place = static_cast<size_t>(hash) & (slots_.size() - 1);
    while (slots_[place].child != kRoot && (slots_[place].token != token || slots_[place].parent != node)) {
      place = (place + 1) & (slots_.size() - 1);
    }
    return place;
  }

  std::vector<Slot> slots_;
};

struct Group {
  const int64_t* token;
  int64_t num_tokens;
  const int64_t *start, *stop, *owner;  // of the segments, in the order of places
  int64_t num_segments;
  const bool* is_correct;
  int64_t num_responses;
};

// A segment is also called a pattern where it is looked for elsewhere.
class Trie {
 public:
  explicit Trie(const Group& group) : group_(group), children_(count_tokens(group)) {
    num_words_ = static_cast<size_t>((group.num_responses + 63) / 64);
    correct_.assign(num_words_, 0);
    for (int64_t r = 0; r < group.num_responses; ++r) {
      if (group.is_correct[r]) correct_[static_cast<size_t>(r / 64)] |= uint64_t{1} << (r % 64);
    }
    enter_segments();
    link();
    collect_owners();
    judge();
  }

  // The longest shared pattern that ends at this node: its length, or 0.
  int32_t shared_length(Node node) const { return shared_length_[index(node)]; }
  // The longest pattern of one correctness that ends at this node, then the next one in more responses; or
  // kRoot.
  Node first(Node node) const { return first_[index(node)]; }
  Node next(Node pattern) const { return next_[index(pattern)]; }
  int32_t depth(Node node) const { return depth_[index(node)]; }
  int32_t num_owners(Node pattern) const { return num_owners_[index(pattern)]; }
  // The node after every token of every segment, segments one behind the other.
  const std::vector<Node>& path() const { return path_; }

 private:
  static size_t index(Node node) { return static_cast<size_t>(node); }

  static size_t count_tokens(const Group& group) {
    int64_t count = 0;
    for (int64_t k = 0; k < group.num_segments; ++k) count += group.stop[k] - group.start[k];
    return static_cast<size_t>(count);
  }

  void add_node(Node parent, int64_t token, int32_t depth) {
    parent_.push_back(parent);
    token_.push_back(token);
    depth_.push_back(depth);
    is_pattern_.push_back(false);
    owners_.resize(owners_.size() + num_words_, 0);
  }

  void enter_segments() {
    add_node(kRoot, 0, 0);
    for (int64_t k = 0; k < group_.num_segments; ++k) {
      const int64_t owner = group_.owner[k];
      Node node = kRoot;
      for (int64_t i = group_.start[k]; i < group_.stop[k]; ++i) {
        const Node fresh = static_cast<Node>(depth_.size());
        const Node child = children_.find_or_add(node, group_.token[i], fresh);
        if (child == fresh) add_node(node, group_.token[i], depth_[index(node)] + 1);
        owners_[index(child) * num_words_ + static_cast<size_t>(owner / 64)] |= uint64_t{1} << (owner % 64);
        path_.push_back(child);
        node = child;
      }
      is_pattern_[index(node)] = true;
    }
  }

  // Nodes from the shortest to the longest; a failure link leads to a shorter one.
  void link() {
    const size_t num_nodes = depth_.size();
    std::vector<size_t> begin(static_cast<size_t>(*std::max_element(depth_.begin(), depth_.end())) + 2, 0);
    for (const int32_t depth : depth_) ++begin[static_cast<size_t>(depth) + 1];
    for (size_t d = 1; d < begin.size(); ++d) begin[d] += begin[d - 1];
    order_.resize(num_nodes);
    for (size_t n = 0; n < num_nodes; ++n)
      order_[begin[static_cast<size_t>(depth_[n])]++] = static_cast<Node>(n);

    fail_.assign(num_nodes, kRoot);
    for (const Node node : order_) {
      if (depth_[index(node)] < 2) continue;
      Node shorter = fail_[index(parent_[index(node)])];
      Node found = children_.find(shorter, token_[index(node)]);
      while (found == kRoot && shorter != kRoot) {
        shorter = fail_[index(shorter)];
        found = children_.find(shorter, token_[index(node)]);
      }
      fail_[index(node)] = found;
    }
  }

  // Whoever holds a prefix holds its suffixes.
  void collect_owners() {
    for (size_t i = order_.size(); i-- > 1;) {
      const size_t from = index(order_[i]) * num_words_, to = index(fail_[index(order_[i])]) * num_words_;
      for (size_t w = 0; w < num_words_; ++w) owners_[to + w] |= owners_[from + w];
    }
  }

  void judge() {
    const size_t num_nodes = depth_.size();
    num_owners_.assign(num_nodes, 0);
    shared_length_.assign(num_nodes, 0);
    first_.assign(num_nodes, kRoot);
    next_.assign(num_nodes, kRoot);
    for (size_t i = 1; i < num_nodes; ++i) {
      const size_t node = index(order_[i]), shorter = index(fail_[node]);
      shared_length_[node] = shared_length_[shorter];
      first_[node] = first_[shorter];
      if (!is_pattern_[node]) continue;
      int32_t right = 0, wrong = 0;
      for (size_t w = 0; w < num_words_; ++w) {
        const uint64_t owners = owners_[node * num_words_ + w];
        right += __builtin_popcountll(owners & correct_[w]);
        wrong += __builtin_popcountll(owners & ~correct_[w]);
      }
      if (right > 0 && wrong > 0) {
        shared_length_[node] =
            depth_[node];  // all shorter ones are shared too: none counts for one correctness
        continue;
      }
      num_owners_[node] = right + wrong;
      // A shorter pattern in as many responses covers nothing that this one does not.
      Node more = first_[node];
      while (more != kRoot && num_owners_[index(more)] == num_owners_[node]) more = next_[index(more)];
      next_[node] = more;
      first_[node] = static_cast<Node>(node);
    }
  }

  const Group& group_;
  Children children_;
  size_t num_words_;
  std::vector<uint64_t> correct_, owners_;  // a bit per response
  std::vector<Node> parent_, fail_, order_, first_, next_, path_;
  std::vector<int64_t> token_;
  std::vector<int32_t> depth_, num_owners_, shared_length_;
  std::vector<bool> is_pattern_;
};

struct Reach {
  int32_t num_owners;
  int64_t start;  // of the occurrence, into the packed tokens

  bool operator<(const Reach& other) const { return num_owners < other.num_owners; }
};

// From the last token of each segment to its first: the occurrences that end here or later and begin early
// enough.
void cover(const Group& group, const Trie& trie, int64_t* same, bool* is_shared) {
  size_t end_of_path = 0;
  for (int64_t k = 0; k < group.num_segments; ++k) {
    const int64_t begin = group.start[k];
    const Node* path = trie.path().data() + end_of_path;
    end_of_path += static_cast<size_t>(group.stop[k] - begin);
    std::priority_queue<Reach> open;
    int64_t shared_from = group.stop[k];
    for (int64_t i = group.stop[k]; i-- > begin;) {
      const Node node = path[i - begin];
      shared_from = std::min(shared_from, i + 1 - trie.shared_length(node));
      for (Node at = trie.first(node); at != kRoot; at = trie.next(at)) {
        if (trie.num_owners(at) > 1) open.push({trie.num_owners(at), i + 1 - trie.depth(at)});
      }
      while (!open.empty() && open.top().start > i) open.pop();
      is_shared[i] = shared_from <= i;
      same[i] = open.empty() ? 0 : open.top().num_owners;
    }
  }
}

void check_group(const Group& group) {
  if (group.num_tokens > INT32_MAX - 1) {
    throw std::runtime_error("token must hold fewer than 2^31 - 1 entries, got " +
                             std::to_string(group.num_tokens));
  }
  for (int64_t k = 0; k < group.num_segments; ++k) {
    const int64_t from = k == 0 ? 0 : group.stop[k - 1];
    if (group.start[k] < from || group.stop[k] <= group.start[k] || group.stop[k] > group.num_tokens) {
      throw std::runtime_error("segments must be ascending, apart and inside the " +
                               std::to_string(group.num_tokens) + " tokens; segment " + std::to_string(k) +
                               " is [" + std::to_string(group.start[k]) + ", " +
                               std::to_string(group.stop[k]) + ")");
    }
    if (group.owner[k] < 0 || group.owner[k] >= group.num_responses) {
      throw std::runtime_error("owner must lie in [0, " + std::to_string(group.num_responses) + "), got " +
                               std::to_string(group.owner[k]) + " at segment " + std::to_string(k));
    }
  }
}

}  // namespace

std::tuple<Tensor, Tensor> segment_support(Tensor token, Tensor start, Tensor stop, Tensor owner,
                                           Tensor is_correct) {
  const int64_t num_segments = start.numel();
  check_shape(token, "token", {token.numel()});
  check_shape(is_correct, "is_correct", {is_correct.numel()});
  check_type(is_correct, "is_correct", {ScalarType::Bool});
  check_type(token, "token", {ScalarType::Long});
  for (const auto& [tensor, name] : {std::pair(&start, "start"), {&stop, "stop"}, {&owner, "owner"}}) {
    check_type(*tensor, name, {ScalarType::Long});
    check_shape(*tensor, name, {num_segments});
  }
  for (Tensor* tensor : {&token, &start, &stop, &owner, &is_correct})
    *tensor = torch::stable::contiguous(*tensor);
  const Group group{token.const_data_ptr<int64_t>(),   token.numel(),
                    start.const_data_ptr<int64_t>(),   stop.const_data_ptr<int64_t>(),
                    owner.const_data_ptr<int64_t>(),   num_segments,
                    is_correct.const_data_ptr<bool>(), is_correct.numel()};
  check_group(group);
  Tensor same = torch::stable::new_zeros(token, {token.numel()});
  Tensor is_shared = torch::stable::new_zeros(token, {token.numel()}, ScalarType::Bool);
  if (num_segments > 0)
    cover(group, Trie(group), same.mutable_data_ptr<int64_t>(), is_shared.mutable_data_ptr<bool>());
  return {same, is_shared};
}

}  // namespace megaent
